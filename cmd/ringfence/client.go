package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
)

// clientFile is what a server leaves in its state directory for the commands
// that talk to it; it holds a token, so only its owner may read it.
type clientFile struct {
	Server string `json:"server"` // base URL
	Token  string `json:"token"`
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
	if err != nil {
		return nil, err
	}
	return newClient(c)
}

func newClient(c clientFile) (*api.ClientWithResponses, error) {
	return api.NewClientWithResponses(c.Server, api.WithRequestEditorFn(
		func(_ context.Context, req *http.Request) error {
			req.Header.Set("Authorization", "Bearer "+c.Token)
			return nil
		}))
}

// answer is what every generated response type offers.
type answer interface {
	StatusCode() int
	GetBody() []byte
}

// expect turns an answer that is not 2xx into the error the server named.
func expect(a answer, err error) error {
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	if a.StatusCode() < 300 {
		return nil
	}
	var e api.Error
	if json.Unmarshal(a.GetBody(), &e) != nil || e.Message == "" {
		return fmt.Errorf("the server answered %d %s", a.StatusCode(), http.StatusText(a.StatusCode()))
	}
	msg := e.Message
	if e.Field != nil && *e.Field != "" {
		msg = *e.Field + ": " + msg
	}
	if e.Missing != nil && len(*e.Missing) > 0 {
		msg += ": " + strings.Join(*e.Missing, "; ")
	}
	return &apiError{code: string(e.Code), message: msg}
}

// apiError is a refusal by the server.
type apiError struct{ code, message string }

func (e *apiError) Error() string { return e.message }
