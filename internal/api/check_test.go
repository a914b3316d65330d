package api

import (
	"strings"
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	h := build(t)
	h.node()
	path := cartPath + "/check"
	if e := h.get(path).problem(409, ErrorCodeConflict); !strings.Contains(e.Message, "audit one first") {
		t.Errorf("%+v", e)
	}
	h.get("/api/v1/workloads/shop/Host/none/check").problem(404, ErrorCodeNotFound)
	h.post(cartPath+"/revisions", newRevision("0")).want(201)
	h.post(cartPath+"/stage", slotChange(1, 0)).want(200)
	h.get(path+"?slot=live").problem(409, ErrorCodeConflict)
	var got PolicyCheck
	h.get(path).want(200).into(&got)
	// The fake analyzer counts the rules that it was given.
	if got.Slot != Staged || got.Revision != 1 || got.Broad != 1 || got.Workload != RefOf(cart) || time.Since(got.Made) > time.Minute {
		t.Errorf("the staged one: %+v", got)
	}
	h.post(cartPath+"/promote", slotChange(1, h.summary().Version)).want(200)
	h.get(path).want(200).into(&got)
	if got.Slot != Live {
		t.Errorf("the live one: %+v", got)
	}
	h.get(path+"?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z").problem(400, ErrorCodeInvalid)
	h.get(path+"?slot=both").problem(400, ErrorCodeInvalid)
}
