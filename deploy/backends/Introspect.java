// What a token says, by java.net.http: java Introspect.java TOKEN
// INTROSPECTD is the address; CLIENT_ID and CLIENT_SECRET are the caller's.
// Java has no JSON of its own; use your own reader where this looks for a text.

import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.Base64;
import java.util.regex.Pattern;

import static java.nio.charset.StandardCharsets.UTF_8;

public class Introspect {
    // One for the whole program: it keeps connections.
    static final HttpClient client = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(1)).build();

    public static void main(String[] args) throws Exception {
        String answer = ask("/introspect", args[0]);
        if (!answer.startsWith("{\"active\":true,")) {
            System.out.println("refused");
            return;
        }
        System.out.println("active " + sub(answer));
        String transformed = ask("/transform", args[0]);
        if (transformed.startsWith("{\"active\":true,")) {
            System.out.println("claims " + sub(transformed));
        }
    }

    // Whatever is not a 200 is no answer: let nobody in.
    static String ask(String path, String token) throws Exception {
        String caller = form(System.getenv("CLIENT_ID")) + ":" + form(System.getenv("CLIENT_SECRET"));
        HttpRequest request = HttpRequest.newBuilder(URI.create(System.getenv("INTROSPECTD") + path))
            .timeout(Duration.ofSeconds(2))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Authorization", "Basic " + Base64.getEncoder().encodeToString(caller.getBytes(UTF_8)))
            .POST(HttpRequest.BodyPublishers.ofString("token=" + form(token)))
            .build();
        HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() != 200) {
            throw new IllegalStateException(path + ": " + response.statusCode());
        }
        return response.body();
    }

    static String form(String text) {
        return URLEncoder.encode(text, UTF_8);
    }

    static String sub(String json) {
        var found = Pattern.compile("\"sub\":\"([^\"\\\\]*)\"").matcher(json);
        if (!found.find()) {
            throw new IllegalStateException("no sub");
        }
        return found.group(1);
    }
}
