package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/statefile"
)

// clientFile is what a server leaves in its state directory for the commands
// that talk to it; it holds a token, so only its owner may read it.
type clientFile struct {
	Server string `json:"server"` // base URL
	Token  string `json:"token"`
	// Certificate is the SHA-256 of the one certificate that the server may
	// show, whoever signed it; empty without TLS.
	Certificate string `json:"certificate,omitempty"`
}

const clientFileName = "client.json"

func (c clientFile) write(stateDir string) error {
	return writeJSON(filepath.Join(stateDir, clientFileName), c)
}

// clientFlags are the flags of every command that talks to a running server.
type clientFlags struct{ config string }

func (f *clientFlags) register(cmd *cobra.Command) {
	def := os.Getenv("RINGFENCE_CONFIG")
	if def == "" {
		def = filepath.Join(defaultStateDir, clientFileName)
	}
	cmd.PersistentFlags().StringVar(&f.config, "config", def,
		"file that names the server and holds its token; the server writes it ($RINGFENCE_CONFIG)")
}

func (f *clientFlags) connect() (*api.ClientWithResponses, error) {
	var c clientFile
	err := readJSON(f.config, &c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no server has left %s: start `ringfence up` or `ringfence demo`, or name its file with --config", f.config)
	}
	if _, damaged := errors.AsType[*statefile.DamagedError](err); damaged {
		return nil, fmt.Errorf("%s is damaged or no file that a server wrote: restart `ringfence up`, which writes it again, or name another with --config", f.config)
	}
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	return newClient(c)
}

func newClient(c clientFile) (*api.ClientWithResponses, error) {
	auth := api.WithRequestEditorFn(func(_ context.Context, req *http.Request) error {
		req.Header.Set("Authorization", "Bearer "+c.Token)
		return nil
	})
	if c.Certificate == "" {
		return api.NewClientWithResponses(c.Server, auth)
	}
	return api.NewClientWithResponses(c.Server, auth, api.WithHTTPClient(&http.Client{
		Transport: &http.Transport{TLSClientConfig: c.pinned()},
	}))
}

// pinned trusts the server's certificate itself, which may be self-signed and
// need not name the address that the commands of this machine use.
func (c clientFile) pinned() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection demands one certificate
		VerifyConnection: func(s tls.ConnectionState) error {
			if fingerprint(s.PeerCertificates[0].Raw) != c.Certificate {
				return errors.New("the server shows another certificate than the one it was started with")
			}
			return nil
		},
	}
}

func fingerprint(certificate []byte) string {
	sum := sha256.Sum256(certificate)
	return hex.EncodeToString(sum[:])
}

// answer is what every generated response type offers.
type answer interface {
	StatusCode() int
	GetBody() []byte
}

// expect turns an answer that is not 2xx into the error the server named.
func expect(a answer, err error) error {
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the URL is of no use to the reader
		}
		return fmt.Errorf("the server does not answer: %w; is `ringfence up` running?", err)
	}
	if a.StatusCode() < 300 {
		return nil
	}
	var e api.Error
	if json.Unmarshal(a.GetBody(), &e) != nil || e.Message == "" {
		return fmt.Errorf("the server answered %d %s", a.StatusCode(), http.StatusText(a.StatusCode()))
	}
	msg := e.Message
	if e.Field != nil && !strings.HasPrefix(msg, *e.Field) {
		msg = *e.Field + ": " + msg
	}
	if e.Missing != nil && len(*e.Missing) > 0 {
		// The message names the first and counts the others: name all.
		if begin, _, ok := strings.Cut(msg, (*e.Missing)[0]); ok {
			msg = begin + strings.Join(*e.Missing, "; ")
		}
	}
	return &apiError{code: string(e.Code), message: msg}
}

// apiError is a refusal by the server.
type apiError struct{ code, message string }

func (e *apiError) Error() string { return e.message }
