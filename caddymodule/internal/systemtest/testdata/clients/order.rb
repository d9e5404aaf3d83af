require "net/http"

url = URI(ARGV[0])
Net::HTTP.start(url.host, url.port, use_ssl: true) do |api|
  answer = api.post(url.path, '{"quantity":1}', "Content-Type" => "application/json")
  answer.value # which raises an error unless the status is 2xx
  puts answer.body
end
