package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/gin-gonic/gin"
)

// validate holds a request against the contract and names the field that is wrong.
func (s *Server) validate(c *gin.Context) {
	if err := s.check(c); err != nil {
		s.metrics.refused.WithLabelValues("invalid").Inc()
		fail(c, err)
	}
}

func (s *Server) check(c *gin.Context) error {
	item, op := s.operation(c)
	if op == nil {
		return refuse(ErrorCodeNotFound, "the contract does not have this operation")
	}
	if err := checkQuery(c.Request, item, op); err != nil {
		return err
	}
	if err := s.readBody(c, op); err != nil {
		return err
	}
	params := map[string]string{}
	for _, p := range c.Params {
		params[p.Key] = p.Value
	}
	err := openapi3filter.ValidateRequest(c.Request.Context(), &openapi3filter.RequestValidationInput{
		Request: c.Request, PathParams: params,
		Route: &routers.Route{Spec: s.spec, Path: c.FullPath(), PathItem: item, Method: c.Request.Method, Operation: op},
		Options: &openapi3filter.Options{
			// Who asks is settled before.
			AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
			KeepValidatedValue: true,
		},
	})
	return explain(err)
}

// checkQuery refuses parameters that the operation does not have, and ones given
// twice, of which one would be ignored.
func checkQuery(r *http.Request, item *openapi3.PathItem, op *openapi3.Operation) error {
	query := r.URL.Query()
	for name, values := range query {
		if op.Parameters.GetByInAndName(openapi3.ParameterInQuery, name) == nil &&
			item.Parameters.GetByInAndName(openapi3.ParameterInQuery, name) == nil {
			return invalid(oneLine(name), fmt.Sprintf("%s: there is no such parameter here", oneLine(name)))
		}
		switch {
		case len(values) > 1:
			return invalid(name, name+": is given twice")
		case values[0] == "":
			return invalid(name, name+": is empty: leave it out, or give a value")
		}
	}
	return nil
}

// readBody reads a body up to its limit and refuses what a decoder would let
// pass: something behind the document, or a field given twice.
func (s *Server) readBody(c *gin.Context, op *openapi3.Operation) error {
	r := c.Request
	if op.RequestBody == nil {
		r.Body = http.NoBody
		return nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Writer, r.Body, s.cfg.MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		f := invalid("body", fmt.Sprintf("body: is larger than %d bytes", tooLarge.Limit))
		f.status = http.StatusRequestEntityTooLarge
		return f
	case err != nil:
		return invalid("body", "body: cannot be read: send it again")
	case len(bytes.TrimSpace(body)) == 0:
		return invalid("body", "body: is missing")
	}
	if !json.Valid(body) {
		var v any
		err := json.Unmarshal(body, &v)
		return invalid("body", "body: is no JSON document: "+oneLine(fmt.Sprint(err)))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if path, err := repeatedField(d, "", 0); err != nil || path != "" {
		if err != nil {
			return invalid("body", "body: "+err.Error())
		}
		return invalid(oneLine(path), oneLine(path)+": is given twice")
	}
	r.Body, r.GetBody = io.NopCloser(bytes.NewReader(body)), nil
	return nil
}

// maxDepth bounds the nesting of a body; the contract needs 9.
const maxDepth = 32

// repeatedField returns the path of the first field that an object has twice, of
// valid JSON.
func repeatedField(d *json.Decoder, path string, depth int) (string, error) {
	if depth > maxDepth {
		return "", errors.New("is nested too deeply")
	}
	t, err := d.Token()
	if err != nil {
		return "", err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return "", nil
	}
	seen := map[string]bool{}
	for i := 0; d.More(); i++ {
		child := path + "[" + strconv.Itoa(i) + "]"
		if delim == '{' {
			t, err := d.Token()
			if err != nil {
				return "", err
			}
			name, _ := t.(string)
			child = join(path, name)
			if seen[name] {
				return child, nil
			}
			seen[name] = true
		}
		if found, err := repeatedField(d, child, depth+1); found != "" || err != nil {
			return found, err
		}
	}
	_, err = d.Token()
	return "", err
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// explain turns the validator's error into one that names the field.
func explain(err error) error {
	if err == nil {
		return nil
	}
	field, text := "body", err.Error()
	var request *openapi3filter.RequestError
	if errors.As(err, &request) {
		text = request.Reason
		if request.Err != nil {
			text = request.Err.Error()
		}
		if request.Parameter != nil {
			field = request.Parameter.Name
		}
	}
	var parse *openapi3filter.ParseError
	if errors.As(err, &parse) {
		text = parse.Reason
		if cause := parse.RootCause(); text == "" && cause != nil {
			text = cause.Error()
		}
	}
	var schema *openapi3.SchemaError
	if errors.As(err, &schema) {
		text = schema.Reason
		if request != nil && request.Parameter == nil {
			path := fieldPath(schema.JSONPointer())
			if name, ok := unknownField(schema.Reason); ok {
				path, text = join(path, name), "there is no such field"
			}
			if path != "" {
				field = path
			}
		}
	}
	first, _, _ := strings.Cut(text, "\n")
	return invalid(oneLine(field), oneLine(field+": "+first))
}

// unknownField returns the name in the validator's words for a field that an
// object does not have; it gives the object's path only.
func unknownField(reason string) (string, bool) {
	rest, ok := strings.CutPrefix(reason, "property ")
	quoted, ok2 := strings.CutSuffix(rest, " is unsupported")
	name, err := strconv.Unquote(quoted)
	return name, ok && ok2 && err == nil
}

// fieldPath writes a JSON pointer's parts as people do: policy.ingress[0].ports.
func fieldPath(pointer []string) string {
	path := ""
	for _, part := range pointer {
		if _, err := strconv.Atoi(part); err == nil && path != "" {
			path += "[" + part + "]"
			continue
		}
		path = join(path, part)
	}
	return path
}
