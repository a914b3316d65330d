package lab
import ("testing";"time";"os";"fmt";"strings";"strconv")
func TestZZ(t *testing.T){
 l:=startLab(t); must(t,l.Resume(t.Context()))
 cpu:=func()(s uint64){ for _,p:=range hostPIDs(t){b,_:=os.ReadFile(fmt.Sprintf("/proc/%d/stat",p)); f:=strings.Fields(string(b)); u,_:=strconv.ParseUint(f[13],10,64); v,_:=strconv.ParseUint(f[14],10,64); s+=u+v}; return}
 a:=cpu(); time.Sleep(20*time.Second); b:=cpu()
 var c Counts; for _,e:=range counters(t,l){c.Add(e.Counts)}
 t.Logf("cpu %d ticks in 20s; %d requests %d conns slow %d fail %d", b-a, c.Requests,c.Attempts,c.Slow,c.Failures)
}
