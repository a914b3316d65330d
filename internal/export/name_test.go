package export

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 80)
	workloads := []flow.Workload{
		{Namespace: "a", Kind: "Deployment", Name: "cart"}, {Namespace: "b", Kind: "Deployment", Name: "cart"}, {Namespace: "a", Kind: "StatefulSet", Name: "cart"},
		{Namespace: "a", Kind: "Deployment", Name: "Cart"}, {Namespace: "a", Kind: "Deployment", Name: "cart.v1"}, {Namespace: "a", Kind: "Deployment", Name: "cart-v1"},
		{Namespace: "a", Kind: "Deployment", Name: long + "1"}, {Namespace: "a", Kind: "Deployment", Name: long + "2"}, {Namespace: "a", Kind: "x-y", Name: "z"},
		{Namespace: "a", Kind: "x", Name: "y-z"}, {Namespace: "a", Kind: "Deployment", Name: "购物车"}, {Namespace: "a", Kind: "Deployment", Name: "cart-"},
	}
	list := make([]subject, len(workloads))
	for i, w := range workloads {
		list[i].policy = policy.Policy{Workload: w}
	}
	nameAll(list)
	seen := map[string]flow.Workload{}
	for i, w := range workloads {
		name := list[i].name
		if bad := validation.IsDNS1123Label(name); len(bad) > 0 {
			t.Errorf("%s: %q: %v", w, name, bad)
		}
		if other, twice := seen[w.Namespace+"/"+name]; twice {
			t.Errorf("%s and %s are both %q", w, other, name)
		}
		seen[w.Namespace+"/"+name] = w
	}
	if got := list[0].name; got != "ringfence-deployment-cart" {
		t.Errorf("a plain name became %q", got)
	}
}
