package main

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
	MeasuredCPU int               `json:"measured_cpu"`
	Governor    string            `json:"governor"`
	Clock       string            `json:"clock_source"`
	JIT         string            `json:"bpf_jit_enable"`
	Hardened    string            `json:"bpf_jit_harden"`
	Mitigations map[string]string `json:"mitigations"` // those that are not "Not affected"
	LoadBefore  string            `json:"load_before"`
	LoadAfter   string            `json:"load_after"`
	Go          string            `json:"go"`
}

func newMachine(measured int) Machine {
	var name unix.Utsname
	_ = unix.Uname(&name) // cannot fail
	m := Machine{
		Kernel: unix.ByteSliceToString(name.Release[:]), CPU: cpuModel(), CPUs: runtime.NumCPU(), MeasuredCPU: measured,
		Governor: state(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor", measured)),
		Clock:    state("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
		JIT:      state("/proc/sys/net/core/bpf_jit_enable"), Hardened: state("/proc/sys/net/core/bpf_jit_harden"),
		Mitigations: map[string]string{}, LoadBefore: load(), Go: runtime.Version(),
	}
	list, _ := filepath.Glob("/sys/devices/system/cpu/vulnerabilities/*") // the pattern is right
	for _, path := range list {
		if s := state(path); s != "Not affected" {
			m.Mitigations[filepath.Base(path)] = s
		}
	}
	return m
}

// state reads one of the kernel's one-line files; "none" where there is none.
func state(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "none"
	}
	return strings.TrimSpace(string(b))
}

func load() string {
	f := strings.Fields(state("/proc/loadavg"))
	return f[0]
}

func cpuModel() string {
	for line := range strings.Lines(state("/proc/cpuinfo")) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
