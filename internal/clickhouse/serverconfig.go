package clickhouse

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net"
	"path/filepath"
	"text/template"
)

// serverUser is the user ringfence logs in as.
const serverUser = "ringfence"

// loopback is the only address the engine listens on.
const loopback = "127.0.0.1"

// The pools are sized for a host that has other work. The schedule pool is
// larger than it needs threads for: a task type may use four fifths of it, and
// with fewer than eight the engine complains that it must pause some.
var configTemplate = template.Must(template.New(configFile).Funcs(xmlFuncs).Parse(`<clickhouse>
  <tcp_port>{{.Port}}</tcp_port>
  <listen_host>{{xml .Listen}}</listen_host>
  <listen_try>0</listen_try>
  <timezone>UTC</timezone>
  <user_directories><users_xml><path>{{xml .Users}}</path></users_xml></user_directories>
  <logger>
    <level>warning</level>
    <console>0</console>
    <log>{{xml .Log}}</log>
    <size>10M</size>
    <count>2</count>
  </logger>
  <send_crash_reports><enabled>false</enabled></send_crash_reports>
  <max_server_memory_usage>{{.MemoryLimit}}</max_server_memory_usage>
  <shutdown_wait_unfinished>1</shutdown_wait_unfinished>
  <max_concurrent_queries>100</max_concurrent_queries>
  <max_connections>256</max_connections>
  <background_pool_size>2</background_pool_size>
  <background_merges_mutations_concurrency_ratio>2</background_merges_mutations_concurrency_ratio>
  <background_schedule_pool_size>8</background_schedule_pool_size>
  <background_common_pool_size>2</background_common_pool_size>
  <background_fetches_pool_size>1</background_fetches_pool_size>
  <background_move_pool_size>1</background_move_pool_size>
  <memory_worker_period_ms>1000</memory_worker_period_ms>
  <mark_cache_size>67108864</mark_cache_size>
  <primary_index_cache_size>67108864</primary_index_cache_size>
  <index_mark_cache_size>16777216</index_mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <mmap_cache_size>64</mmap_cache_size>
  <compiled_expression_cache_size>16777216</compiled_expression_cache_size>
  <query_cache><max_size_in_bytes>0</max_size_in_bytes></query_cache>
  <merge_tree>
    <max_suspicious_broken_parts>0</max_suspicious_broken_parts>
    <max_suspicious_broken_parts_bytes>0</max_suspicious_broken_parts_bytes>
    <fsync_after_insert>1</fsync_after_insert>
    <fsync_part_directory>1</fsync_part_directory>
    <min_rows_to_fsync_after_merge>1</min_rows_to_fsync_after_merge>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
{{- with .Cluster}}
  <macros><shard>{{xml .Shard}}</shard><replica>{{xml .Replica}}</replica></macros>
  <remote_servers replace="1">
    <{{xml .Name}}>
      <secret>{{xml .Secret}}</secret>
      {{- range .Shards}}
      <shard>
        <internal_replication>true</internal_replication>
        {{- range .}}
        <replica><host>{{host . | xml}}</host><port>{{port . | xml}}</port></replica>
        {{- end}}
      </shard>
      {{- end}}
    </{{xml .Name}}>
  </remote_servers>
{{- end}}
</clickhouse>
`))

// An idle connection looks once in a poll interval whether the engine is leaving,
// and the engine waits for that. The profile "local" is the library's own
// client. Its one session is open as long as the engine runs, so nobody else
// gets in without a password. By the engine's default of 1 GiB of free memory a
// thread, every query would have one thread below the default memory limit.
var usersTemplate = template.Must(template.New(usersFile).Funcs(xmlFuncs).Parse(`<clickhouse>
  <profiles>
    <default>
      <max_memory_usage>{{.QueryMemory}}</max_memory_usage>
      <max_threads>2</max_threads>
      <max_threads_min_free_memory_per_thread>134217728</max_threads_min_free_memory_per_thread>
      <async_insert>0</async_insert>
      <poll_interval>1</poll_interval>
      <log_queries>0</log_queries>
      <log_query_threads>0</log_query_threads>
      <send_logs_level>none</send_logs_level>
      <calculate_text_stack_trace>0</calculate_text_stack_trace>
      <query_profiler_real_time_period_ns>0</query_profiler_real_time_period_ns>
      <query_profiler_cpu_time_period_ns>0</query_profiler_cpu_time_period_ns>
      <memory_profiler_step>0</memory_profiler_step>
    </default>
    <local>
      <profile>default</profile>
      <max_sessions_for_user>1</max_sessions_for_user>
    </local>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password></password>
      <networks><ip>{{xml .Listen}}</ip></networks>
      <profile>local</profile>
      <quota>default</quota>
      <grants><query>GRANT SYSTEM LISTEN ON *.*</query></grants>
    </default>
    <{{xml .User}}>
      <password_sha256_hex>{{.PasswordHash}}</password_sha256_hex>
      <networks><ip>{{xml .Listen}}</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SELECT, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, SHOW ON {{xml .Database}}*.*</query>
        <query>GRANT TABLE ENGINE ON MergeTree, TABLE ENGINE ON AggregatingMergeTree</query>
        <query>GRANT SELECT ON system.*</query>
        {{- if .Cluster}}
        <query>GRANT TABLE ENGINE ON Distributed, TABLE ENGINE ON ReplicatedMergeTree, TABLE ENGINE ON ReplicatedAggregatingMergeTree</query>
        <query>GRANT REMOTE ON *.*</query>
        {{- end}}
      </grants>
    </{{xml .User}}>
  </users>
</clickhouse>
`))

var xmlFuncs = template.FuncMap{
	"xml": func(s string) (string, error) {
		var b bytes.Buffer
		err := xml.EscapeText(&b, []byte(s))
		return b.String(), err
	},
	"host": func(addr string) (string, error) { host, _, err := net.SplitHostPort(addr); return host, err },
	"port": func(addr string) (string, error) { _, port, err := net.SplitHostPort(addr); return port, err },
}

// writeServerConfig writes both files for one start. Only a hash of the
// password reaches the disk.
func writeServerConfig(cfg *Config, c Credentials, port string) error {
	hash := sha256.Sum256([]byte(c.Password))
	values := map[string]any{
		"Port":         port,
		"Listen":       loopback,
		"Users":        filepath.Join(cfg.DataDir, usersFile),
		"Log":          filepath.Join(cfg.DataDir, logSubdir, "engine.log"),
		"MemoryLimit":  cfg.MemoryLimit,
		"QueryMemory":  cfg.MemoryLimit / 4 * 3,
		"User":         c.User,
		"PasswordHash": hex.EncodeToString(hash[:]),
		"Database":     cfg.Database,
		"Cluster":      cfg.Cluster,
	}
	for name, tmpl := range map[string]*template.Template{configFile: configTemplate, usersFile: usersTemplate} {
		var b bytes.Buffer
		if err := tmpl.Execute(&b, values); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := writePrivate(filepath.Join(cfg.DataDir, name), b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}
