package report

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is the state of the machine that a run was made on.
type Machine struct {
	Kernel      string            `json:"kernel"`
	CPU         string            `json:"cpu"`
	CPUs        int               `json:"cpus"`
	Governor    string            `json:"governor"`
	Clock       string            `json:"clock_source"`
	JIT         string            `json:"bpf_jit_enable"`
	Hardened    string            `json:"bpf_jit_harden"`
	Mitigations map[string]string `json:"mitigations"` // those that are not "Not affected"
	LoadBefore  string            `json:"load_before"`
	LoadAfter   string            `json:"load_after"`
	Go          string            `json:"go"`
}

// NewMachine describes this machine as it is now, with the governor of one CPU.
func NewMachine(cpu int) Machine {
	var name unix.Utsname
	_ = unix.Uname(&name) // cannot fail
	m := Machine{
		Kernel: unix.ByteSliceToString(name.Release[:]), CPU: cpuModel(), CPUs: runtime.NumCPU(),
		Governor: State(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor", cpu)),
		Clock:    State("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
		JIT:      State("/proc/sys/net/core/bpf_jit_enable"), Hardened: State("/proc/sys/net/core/bpf_jit_harden"),
		Mitigations: map[string]string{}, LoadBefore: Load(), Go: runtime.Version(),
	}
	list, _ := filepath.Glob("/sys/devices/system/cpu/vulnerabilities/*") // the pattern is right
	for _, path := range list {
		if s := State(path); s != "Not affected" {
			m.Mitigations[filepath.Base(path)] = s
		}
	}
	return m
}

// State reads one of the kernel's one-line files; "none" where there is none.
func State(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "none"
	}
	return strings.TrimSpace(string(b))
}

// Load is the load average of the last minute.
func Load() string {
	f := strings.Fields(State("/proc/loadavg"))
	return f[0]
}

func cpuModel() string {
	for line := range strings.Lines(State("/proc/cpuinfo")) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
