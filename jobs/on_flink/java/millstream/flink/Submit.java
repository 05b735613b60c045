package millstream.flink;

import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.PlanReference;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;

/**
 * One shot: {@code compile CONFIGURATION TABLES STATEMENTS PLAN} writes the compiled plan of a statement set;
 * {@code execute CONFIGURATION TABLES PLAN} submits it and prints {@code job <id>}.
 *
 * <p>TABLES holds DDL statements, separated by NUL. CONFIGURATION is a properties file.
 */
public final class Submit {
    private Submit() {}

    public static void main(String[] args) throws Exception {
        if (args.length == 5 && args[0].equals("compile")) {
            TableEnvironment tables = open(Path.of(args[1]), Path.of(args[2]));
            String target = Path.of(args[4]).toUri().toString().replace("'", "''");
            tables.executeSql("COMPILE PLAN '" + target + "' FOR " + Files.readString(Path.of(args[3])));
        } else if (args.length == 4 && args[0].equals("execute")) {
            TableEnvironment tables = open(Path.of(args[1]), Path.of(args[2]));
            TableResult result = tables.executePlan(PlanReference.fromFile(args[3]));
            JobClient client = result.getJobClient().orElseThrow();
            System.out.println("job " + client.getJobID());
        } else {
            System.err.println("usage: compile CONFIGURATION TABLES STATEMENTS PLAN | execute CONFIGURATION TABLES PLAN");
            System.exit(2);
        }
        System.exit(0);
    }

    private static TableEnvironment open(Path properties, Path ddl) throws Exception {
        Properties given = new Properties();
        try (Reader in = Files.newBufferedReader(properties)) {
            given.load(in);
        }
        Map<String, String> settings = new HashMap<>();
        given.stringPropertyNames().forEach(name -> settings.put(name, given.getProperty(name)));
        Configuration configuration = Configuration.fromMap(settings);
        TableEnvironment tables = TableEnvironment.create(
                EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(configuration).build());
        for (String statement : Files.readString(ddl).split("\0")) {
            if (!statement.isBlank()) {
                tables.executeSql(statement);
            }
        }
        return tables;
    }
}
