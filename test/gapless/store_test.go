package gapless

import (
	"context"

	"github.com/ringfence/ringfence/bpf"
)

func (o *orders) store(ctx context.Context, d *bpf.Datapath, n *notes) error { return nil }
