package control

import (
	"errors"
	"fmt"
)

// Code says what kind of refusal an Error is.
type Code string

// Codes. The API's error codes have the same spelling.
const (
	CodeInvalid      Code = "invalid"      // the request makes no sense
	CodeUnauthorized Code = "unauthorized" // not known who asks
	CodeNotFound     Code = "not_found"    // no such workload or revision
	CodeConflict     Code = "conflict"     // done already, or things changed meanwhile
	CodeNotReady     Code = "not_ready"    // Missing says what has to come first
	CodeUnavailable  Code = "unavailable"  // something that is needed does not answer
	CodeInternal     Code = "internal"     // the store is damaged or cannot be written
)

// Error is a refusal that a person can act on.
type Error struct {
	Code    Code
	Message string   // one line: what is wrong and what to do
	Field   string   // the part of the request that is wrong, if one is
	Missing []string // of CodeNotReady
	// Passable: Missing is only what learning lacks, and Change.Anyway passes over it.
	Passable bool
	Err      error // the cause, if there is one
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of err: CodeInternal when it carries none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func invalid(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}
