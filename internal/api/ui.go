package api

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
)

const notBuilt = "ringfence is running, but its web interface was not built into this program.\nRun `make build` and start it again; the API and the command line work without.\n"

// serveUI answers with a file of the user interface, or with its one page for
// every address that is no file: which page it is, the browser works out.
func (s *Server) serveUI(c *gin.Context) {
	name := strings.TrimPrefix(path.Clean("/"+c.Request.URL.Path), "/")
	if name == "" {
		name = "index.html"
	}
	f, ok := s.uiFile(name)
	switch {
	case ok && strings.HasPrefix(name, "assets/"):
		// The build puts a hash of the content into these names.
		c.Header("Cache-Control", "public, max-age=31536000, immutable")
	case !ok && strings.HasPrefix(name, "assets/"):
		fail(c, refuse(ErrorCodeNotFound, "there is no such file: reload the page"))
		return
	case !ok:
		name = "index.html"
		f, ok = s.uiFile(name)
		fallthrough
	default:
		c.Header("Cache-Control", "no-cache")
	}
	if !ok {
		c.String(http.StatusServiceUnavailable, notBuilt)
		return
	}
	defer f.Close() //nolint:errcheck // it was only read
	content, seekable := f.(io.ReadSeeker)
	if !seekable {
		fail(c, errors.New("the user interface's files cannot seek"))
		return
	}
	c.Status(http.StatusOK)
	http.ServeContent(c.Writer, c.Request, name, time.Time{}, content)
}

func (s *Server) uiFile(name string) (fs.File, bool) {
	if s.deps.UI == nil || strings.HasPrefix(path.Base(name), ".") {
		return nil, false
	}
	f, err := s.deps.UI.Open(name)
	if err != nil {
		return nil, false
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close() //nolint:errcheck // it was only opened
		return nil, false
	}
	return f, true
}
