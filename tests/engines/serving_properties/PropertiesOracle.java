// Reads base64 lines (UTF-8 text of one properties file each), answers each with one line:
// "E" when Properties.load refuses it, else base64(key) ':' base64(value) pairs, sorted, separated by ','.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Properties;
import java.util.TreeSet;

public class PropertiesOracle {
    static String b64(String text) {
        return Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_16BE));
    }

    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line; (line = in.readLine()) != null; ) {
            String text = new String(Base64.getDecoder().decode(line), StandardCharsets.UTF_16BE);
            Properties properties = new Properties();
            try {
                properties.load(new StringReader(text));
            } catch (IllegalArgumentException e) {
                System.out.println("E");
                continue;
            }
            TreeSet<String> pairs = new TreeSet<>();
            for (String key : properties.stringPropertyNames()) {
                pairs.add(b64(key) + ":" + b64(properties.getProperty(key)));
            }
            System.out.println("=" + String.join(",", pairs));
        }
    }
}
