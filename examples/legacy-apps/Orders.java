// A call without auth code, in Java. Run it with: java Orders.java
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

class Orders {
    public static void main(String[] args) throws Exception {
        var api = System.getenv().getOrDefault("ORDERS_API", "http://127.0.0.1:8080");
        var request = HttpRequest.newBuilder(URI.create(api + "/orders")).build();
        var answer = HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            throw new Exception("status " + answer.statusCode());
        }
        System.out.print(answer.body());
    }
}
