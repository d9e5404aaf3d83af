import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

class Order {
	public static void main(String[] arguments) throws Exception {
		var order = HttpRequest.newBuilder(URI.create(arguments[0]))
				.header("Content-Type", "application/json")
				.POST(BodyPublishers.ofString("{\"quantity\":1}"))
				.build();
		var answer = HttpClient.newHttpClient().send(order, BodyHandlers.ofString());
		if (answer.statusCode() != 200) {
			throw new Exception("status " + answer.statusCode());
		}
		System.out.println(answer.body());
	}
}
