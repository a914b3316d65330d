package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/ringfence/ringfence/internal/query"
)

// Codes of the server's exceptions that people can do something about.
const (
	codeUnknownIdentifier   = 47
	codeUnknownTable        = 60
	codeUnknownDatabase     = 81
	codeTooManyRows         = 158
	codeTooManyBytes        = 307
	codeTimeout             = 159
	codeReadonly            = 164
	codeNoSpace             = 243
	codeMemoryLimit         = 241
	codeUnknownSetting      = 115
	codeTooManyResultRows   = 396
	codeSettingConstraint   = 452
	codeConstraint          = 469
	codeAccessDenied        = 497
	codeAuthenticationError = 516

	codeUnexpectedEnd        = 32
	codeNoFile               = 107
	codeNoCreateQuery        = 390
	codeTableExists          = 57
	codeDatabaseExists       = 82
	codeDNS                  = 198
	codeSocketTimeout        = 209
	codeNetworkError         = 210
	codeNoKeeper             = 225
	codeTableReadOnly        = 242
	codeAborted              = 236
	codeReplicaExists        = 253
	codeAllConnectionsFailed = 279
	codeReplicasStale        = 369
	codeReplicasLost         = 415
	codeCannotAssignAlter    = 517
	codeKeeper               = 999
)

// maxExceptionText is how much of the server's own message is shown: it may
// hold the whole query.
const maxExceptionText = 240

// explain turns an error of the driver into one line that says what to do.
func (s *Store) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	addr := strings.Join(s.cfg.Addrs, ", ")
	var exception *clickhouse.Exception
	if errors.As(err, &exception) {
		return s.explainException(op, addr, exception)
	}
	var dns *net.DNSError
	var untrusted *tls.CertificateVerificationError
	var remote *net.OpError
	switch {
	case errors.As(err, &untrusted):
		return fmt.Errorf("clickhouse at %s shows a certificate that is not accepted: give its authority with --clickhouse-ca, or the name in it with --clickhouse-server-name: %w", addr, err)
	case errors.As(err, &remote) && remote.Op == "remote error": // a TLS alert
		return fmt.Errorf("clickhouse at %s ends the TLS handshake: it may want a certificate of ours, --clickhouse-cert and --clickhouse-key: %w", addr, err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("clickhouse %s: %w", op, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("clickhouse at %s refuses connections: start it, or correct the address: %w", addr, err)
	case errors.As(err, &dns):
		return fmt.Errorf("clickhouse at %s: the name %q does not resolve: correct the address: %w", addr, dns.Name, err)
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return fmt.Errorf("clickhouse at %s did not answer in time (%s): check the network and the server's load: %w", addr, op, err)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("clickhouse at %s closed the connection (%s): check that this is the port of the native protocol and that the server runs: %w",
			addr, op, err)
	}
	return fmt.Errorf("clickhouse %s: %w", op, err)
}

func (s *Store) explainException(op, addr string, e *clickhouse.Exception) error {
	if s.cfg.Cluster != "" && slices.Contains(partialCodes, e.Code) {
		return &PartialError{Cluster: s.cfg.Cluster, Err: brief(e)}
	}
	switch e.Code {
	case codeNoKeeper, codeKeeper, codeTableReadOnly:
		return fmt.Errorf("clickhouse at %s does not reach its Keeper, which replicated tables need (%s): check <zookeeper> in its configuration: %w", addr, op, brief(e))
	case codeReplicaExists:
		return fmt.Errorf("clickhouse at %s is listed by Keeper as a replica of a table that it has not (%s): if its disk is lost, run SYSTEM DROP REPLICA on another replica: %w", addr, op, brief(e))
	case codeAuthenticationError:
		return fmt.Errorf("clickhouse at %s refuses user %q: wrong password or no such user; %s: %w", addr, s.cfg.User, s.cfg.PasswordHelp, brief(e))
	case codeAccessDenied, codeReadonly:
		return fmt.Errorf("clickhouse user %q may not do this (%s): grant it what the message names: %w", s.cfg.User, op, brief(e))
	case codeUnknownDatabase, codeUnknownTable:
		return fmt.Errorf("clickhouse has no ringfence schema in database %q yet (%s): start the ringfence server, which makes it: %w",
			s.cfg.Database, op, brief(e))
	case codeSettingConstraint, codeUnknownSetting:
		return fmt.Errorf("clickhouse does not let user %q set what inserts rest on (%s): take the constraint out of the user's profile: %w",
			s.cfg.User, op, brief(e))
	case codeTooManyRows, codeTooManyBytes, codeTimeout, codeTooManyResultRows:
		return &query.LimitError{Err: fmt.Errorf("clickhouse gave up the query (%s): ask for a shorter time or for one workload: %w", op, brief(e))}
	case codeMemoryLimit:
		return &query.LimitError{Err: fmt.Errorf("clickhouse is short of memory (%s): ask for a shorter time or for one workload, or give it more memory: %w", op, brief(e))}
	case codeConstraint:
		return fmt.Errorf("clickhouse takes no flows at the moment (%s): a backup or a migration runs, and the batch waits for its end: %w", op, brief(e))
	case codeNoSpace:
		return fmt.Errorf("the disk of clickhouse at %s is full (%s): make room: %w", addr, op, brief(e))
	}
	return fmt.Errorf("clickhouse %s: %w", op, brief(e))
}

// serverError is an exception in one line, without stack trace and advice.
type serverError struct{ *clickhouse.Exception }

func brief(e *clickhouse.Exception) error { return serverError{e} }

func (e serverError) Error() string {
	line, _, _ := strings.Cut(strings.TrimSpace(e.Message), "\n")
	for _, noise := range []string{", Stack trace", ". Stack trace", " in scope SELECT", ": While processing", ": while executing"} {
		line, _, _ = strings.Cut(line, noise)
	}
	if len(line) > maxExceptionText {
		line = line[:maxExceptionText] + "…"
	}
	return fmt.Sprintf("code %d: %s", e.Code, strings.TrimSuffix(line, "."))
}

func (e serverError) Unwrap() error { return e.Exception }

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
