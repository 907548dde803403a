import com.github.kagkarlsson.scheduler.Scheduler;
import com.github.kagkarlsson.scheduler.task.helper.OneTimeTask;
import com.github.kagkarlsson.scheduler.task.helper.Tasks;
import com.sun.management.OperatingSystemMXBean;
import com.zaxxer.hikari.HikariDataSource;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.concurrent.CountDownLatch;

/** db-scheduler: one one-time task for each; it locks and fetches what is due, as its authors advise for throughput. */
public class Work {
    private static final String TABLE = """
        drop table if exists scheduled_tasks;
        create table scheduled_tasks (
            task_name text not null, task_instance text not null, task_data bytea, execution_time timestamptz not null,
            picked boolean not null, picked_by text, last_success timestamptz, last_failure timestamptz,
            consecutive_failures int, last_heartbeat timestamptz, version bigint not null, priority smallint,
            primary key (task_name, task_instance));
        create index on scheduled_tasks (execution_time);
        create index on scheduled_tasks (last_heartbeat);
        """;

    public static void main(String[] arguments) throws Exception {
        int count = Integer.parseInt(arguments[1]);
        CountDownLatch left = new CountDownLatch(count);
        HikariDataSource source = new HikariDataSource();
        source.setJdbcUrl(arguments[0]);
        source.setMaximumPoolSize(10);
        try (var connection = source.getConnection(); var statement = connection.createStatement()) {
            statement.execute(TABLE);
        }
        OneTimeTask<Void> body = Tasks.oneTime("body").execute((instance, context) -> left.countDown());
        Scheduler scheduler = Scheduler.create(source, body)
            .threads(50).pollUsingLockAndFetch(1.0, 4.0).pollingInterval(Duration.ofSeconds(1)).build();
        Instant at = Instant.now();
        var instances = new ArrayList<com.github.kagkarlsson.scheduler.task.TaskInstance<?>>();
        for (int number = 0; number < count; number++) {
            instances.add(body.instance(String.valueOf(number)));
        }
        scheduler.scheduleBatch(instances, at);
        var system = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        long begun = System.nanoTime(), cpu = system.getProcessCpuTime();
        scheduler.start();
        left.await();
        double seconds = (System.nanoTime() - begun) / 1e9, used = (system.getProcessCpuTime() - cpu) / 1e3;
        System.out.printf("{\"rate\": %f, \"cpu\": %f}%n", count / seconds, used / count);
        Runtime.getRuntime().halt(0);
    }
}
