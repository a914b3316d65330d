package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/ringfence/ringfence/internal/control"
)

// statuses of error codes. A code that is not here is an internal error.
var statuses = map[ErrorCode]int{
	ErrorCodeInvalid:      http.StatusBadRequest,
	ErrorCodeUnauthorized: http.StatusUnauthorized,
	ErrorCodeForbidden:    http.StatusForbidden,
	ErrorCodeNotFound:     http.StatusNotFound,
	ErrorCodeConflict:     http.StatusConflict,
	ErrorCodeNotReady:     http.StatusConflict,
	ErrorCodeRateLimited:  http.StatusTooManyRequests,
	ErrorCodeUnavailable:  http.StatusServiceUnavailable,
	ErrorCodeInternal:     http.StatusInternalServerError,
}

// statusClientGone is what web servers log for a request whose client left.
const statusClientGone = 499

// refusal is an error of this package that a person can act on.
type refusal struct {
	status int // 0: that of the code
	body   Error
}

func (r *refusal) Error() string { return r.body.Message }

func refuse(code ErrorCode, message string) *refusal {
	return &refusal{body: Error{Code: code, Message: message}}
}

func invalid(field, message string) *refusal {
	r := refuse(ErrorCodeInvalid, message)
	r.body.Field = &field
	return r
}

// describe turns any error into what is answered. What is not meant for people
// is answered without its text.
func describe(err error) (int, Error) {
	var own *refusal
	var theirs *control.Error
	switch {
	case errors.As(err, &own):
		if own.status != 0 {
			return own.status, own.body
		}
		return statuses[own.body.Code], own.body
	case errors.As(err, &theirs):
		body := Error{Code: ErrorCode(theirs.Code), Message: theirs.Message}
		if theirs.Field != "" {
			body.Field = &theirs.Field
		}
		if len(theirs.Missing) > 0 {
			body.Missing = &theirs.Missing
		}
		if status, ok := statuses[body.Code]; ok {
			return status, body
		}
		return http.StatusInternalServerError, body
	case errors.Is(err, context.Canceled):
		// The client went away; nobody reads this, and it is no fault of ours.
		return statusClientGone, Error{Code: ErrorCodeUnavailable, Message: "the request was given up"}
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, Error{Code: ErrorCodeUnavailable, Message: "it took too long: try again, with a shorter window"}
	}
	return http.StatusInternalServerError, Error{Code: ErrorCodeInternal, Message: "something went wrong inside: look at the server's log"}
}

// fail answers err and ends the request's handling. What the answer hides is
// kept for the request's log line.
func fail(c *gin.Context, err error) {
	status, body := describe(err)
	if status >= http.StatusInternalServerError {
		var theirs *control.Error
		if errors.As(err, &theirs) && theirs.Err != nil {
			err = fmt.Errorf("%w: %w", err, theirs.Err)
		}
		_ = c.Error(err) // the request's log line shows it
	}
	if status == http.StatusUnauthorized {
		c.Header("WWW-Authenticate", `Bearer realm="ringfence"`)
	}
	if c.Writer.Written() {
		c.Abort()
		return
	}
	c.AbortWithStatusJSON(status, body)
}
