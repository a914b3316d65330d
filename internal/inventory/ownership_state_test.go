package inventory

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/statefile"
)

// learnerEnv makes the test binary a process that learns until it is killed.
const learnerEnv = "RINGFENCE_TEST_OWNERS"

func TestMain(m *testing.M) {
	if path := os.Getenv(learnerEnv); path != "" {
		learnForever(path)
	}
	os.Exit(m.Run())
}

// learnForever goes on where the last process was and tells each inventory's
// number before it learns it, and after. Everybody's address moves on each time.
func learnForever(path string) {
	first, _ := strconv.Atoi(os.Args[len(os.Args)-1])
	o, err := NewOwnership(OwnershipConfig{Node: "node-1", Path: path})
	if err != nil {
		panic(err)
	}
	o.Resume(start.Add(time.Hour))
	for n := first; ; n++ {
		fmt.Println("begin", n)
		o.Learn(estate(20, n%10), start.Add(time.Duration(n)*time.Second))
		fmt.Println("end", n)
	}
}

// Killed at any moment, an agent's next process knows who held what, as far as
// the last inventory that the kernel can have been given.
func TestKilledWhileLearning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "owners.state")
	next := 0
	for life := range 20 {
		cmd := exec.Command(os.Args[0], "-test.run=^$", strconv.Itoa(next))
		cmd.Env = append(os.Environ(), learnerEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		begun, done := -1, -1
		for lines := bufio.NewScanner(out); lines.Scan(); {
			what, number, _ := strings.Cut(lines.Text(), " ")
			n, _ := strconv.Atoi(number)
			if what == "begin" {
				begun = n
			} else {
				done = n
			}
			if n == next+3+life%5 {
				// Somewhere in the midst of what follows.
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		if begun < next+3 || done < next+2 {
			t.Fatalf("it only came to %d, %d", begun, done)
		}
		o := ownership(t, func(c *OwnershipConfig) { c.Path = path })
		o.Resume(start.Add(time.Hour))
		if o.StateErrors() != 0 {
			t.Fatal("the state cannot be read")
		}
		for n := range done {
			at := start.Add(time.Duration(n)*time.Second + 500*time.Millisecond)
			for _, i := range []int{0, 7, 19} {
				address := netip.AddrFrom4([4]byte{10, 1, 0, byte(i + n%10)}).String()
				if got := owner(o, address, at, at); got != fmt.Sprint("e", i) {
					t.Fatalf("after %d inventories %s is %q's in the time of number %d, want e%d's", done, address, got, n, i)
				}
			}
		}
		next = done + 1
	}
}

// What was never known to a process counts from always in its first inventory;
// what was, from when it changed.
func TestResume(t *testing.T) {
	path := filepath.Join(t.TempDir(), "owners.state")
	with := func(c *OwnershipConfig) { c.Path = path }
	o := ownership(t, with)
	o.Learn(estate(10, 0), start)
	o.Learn(estate(10, 3), start.Add(time.Minute)) // 10.1.0.5 goes from e5 to e2, 10.1.0.0 is nobody's
	o = ownership(t, with)
	o.Resume(start.Add(2 * time.Minute))
	select {
	case <-o.Ready():
		t.Error("ready without an inventory of its own")
	default:
	}
	o.Learn(estate(11, 3), start.Add(2*time.Minute)) // e10 is new
	for _, tt := range []struct {
		address string
		from    time.Duration
		to      time.Duration
		want    string
	}{
		{"10.1.0.5", 0, time.Second, "e5"},
		{"10.1.0.5", time.Second, 90 * time.Second, ""},
		{"10.1.0.5", 90 * time.Second, time.Hour, "e2"},
		{"10.1.0.0", 0, time.Second, "e0"},
		{"10.1.0.0", 90 * time.Second, 90 * time.Second, "world"},
		{"10.1.0.13", 0, time.Second, "e10"},
		{"fd00::5", 0, time.Second, "e5"},
		{"fd00::5", 90 * time.Second, time.Hour, "e2"},
		{"10.0.0.1", -time.Hour, time.Hour, "host"},
	} {
		if got := owner(o, tt.address, start.Add(tt.from), start.Add(tt.to)); got != tt.want {
			t.Errorf("%s from %s to %s: %q, want %q", tt.address, tt.from, tt.to, got, tt.want)
		}
	}
	if l := o.Local(); len(l) != 11 || !l[0].Since.IsZero() {
		t.Errorf("local: %+v", l)
	}
	// Nothing more than for one process is remembered.
	o.Learn(estate(0, 0), start.Add(3*time.Hour))
	o.Learn(estate(0, 0), start.Add(6*time.Hour))
	if len(o.addresses) != 1 || len(o.numbers) != 0 || o.former.len() != 0 {
		t.Errorf("%d addresses, %d numbers, %d former", len(o.addresses), len(o.numbers), o.former.len())
	}
}

// A bad file is counted, and the process begins as one without.
func TestBadStateIsNone(t *testing.T) {
	good := func() ownershipState {
		o := ownership(t)
		o.Learn(estate(2, 0), start)
		o.Learn(estate(2, 1), start.Add(time.Minute))
		return o.state()
	}
	for name, spoil := range map[string]func(*ownershipState){
		"of the future":          func(st *ownershipState) { st.At = start.Add(time.Hour).UnixNano() },
		"of a missing holder":    func(st *ownershipState) { st.Holders[0] = nil },
		"of a holder too many":   func(st *ownershipState) { st.Held[0].Holder = len(st.Holders) },
		"of one address twice":   func(st *ownershipState) { st.Held = append(st.Held, st.Held[0]) },
		"of nothing":             func(st *ownershipState) { st.Held[0].Address, st.Held[0].Number = netip.Addr{}, 0 },
		"of both":                func(st *ownershipState) { st.Held[0].Address, st.Held[0].Number = netip.MustParseAddr("10.1.1.1"), 7 },
		"held by nobody ever":    func(st *ownershipState) { st.Held[0].Holder, st.Held[0].Before = noHolder, nil },
		"held later than it is":  func(st *ownershipState) { st.Held[0].Since = st.At + 1 },
		"former out of order":    func(st *ownershipState) { st.Held[0].Before = []formerState{{0, 5, 5}} },
		"former of nobody":       func(st *ownershipState) { st.Held[0].Before = []formerState{{noHolder, 5, 6}} },
		"former later than it":   func(st *ownershipState) { st.Held[0].Before = []formerState{{0, 5, st.At + 1}} },
		"former after forgotten": func(st *ownershipState) { st.Held[0].Forgotten, st.Held[0].Before = 9, []formerState{{0, 5, 8}} },
	} {
		t.Run(name, func(t *testing.T) {
			st := good()
			spoil(&st)
			raw, err := json.Marshal(st)
			if err != nil {
				t.Fatal(err)
			}
			wantNone(t, func(path string) error { return statefile.Write(path, raw) })
		})
	}
	t.Run("cut", func(t *testing.T) {
		wantNone(t, func(path string) error { return os.WriteFile(path, []byte("half"), 0o600) })
	})
}

func wantNone(t *testing.T, write func(path string) error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "owners.state")
	if err := write(path); err != nil {
		t.Fatal(err)
	}
	o := ownership(t, func(c *OwnershipConfig) { c.Path = path })
	o.Resume(start.Add(2 * time.Minute))
	if o.StateErrors() != 1 || len(o.addresses)+len(o.numbers)+o.former.len() != 0 {
		t.Errorf("%d errors, %d addresses", o.StateErrors(), len(o.addresses))
	}
	o.Learn(estate(2, 1), start.Add(2*time.Minute))
	if got := owner(o, "10.1.0.1", start, start); got != "e0" || o.StateErrors() != 1 {
		t.Errorf("%q, %d errors", got, o.StateErrors())
	}
}

// What is accepted is as it was written, and can be asked and learned over.
func FuzzRestore(f *testing.F) {
	o, err := NewOwnership(OwnershipConfig{Node: "node-1"})
	if err != nil {
		f.Fatal(err)
	}
	o.Learn(estate(2, 0), start)
	o.Learn(estate(2, 1), start.Add(time.Minute))
	raw, err := json.Marshal(o.state())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		o := ownership(t)
		if o.restore(raw, start.Add(time.Hour)) != nil {
			if len(o.addresses)+len(o.numbers) > 0 {
				t.Error("half of it is known")
			}
			return
		}
		again, err := json.Marshal(o.state())
		if err != nil || !bytes.Contains(again, []byte(`"at"`)) {
			t.Fatal(err)
		}
		owner(o, "10.1.0.1", start, start.Add(time.Minute))
		o.Learn(estate(2, 0), start.Add(2*time.Hour))
		if got := owner(o, "10.1.0.1", start.Add(3*time.Hour), start.Add(3*time.Hour)); got != "e1" {
			t.Errorf("now it is %q", got)
		}
	})
}
