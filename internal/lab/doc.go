// Package lab builds nodes and the hosts behind them as network namespaces and
// carries real traffic between them: clients, servers, a name server, peers
// outside, health probes and an attack script, all read from a scenario.
//
// A Scenario is immutable once it is loaded. A Lab lives from Start to Stop;
// one lab at a time can live on a machine, because namespace names are the
// machine's. Every namespace and process is recorded in a state file before or
// right after it is made, so that Cleanup removes what a killed lab left behind.
//
// Every host is a process of its own inside its namespace. It runs RunHost,
// which the lab drives by JSON lines, and it ends when the lab does: by the end
// of its standard input, or with the thread that started it.
//
// Nothing leads from the lab to the machine's own network: each namespace is
// connected to its node only, and nodes to each other.
package lab
