package flowfile

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// isList reports whether in holds a JSON list rather than lines, and how many
// empty lines came before.
func isList(in *bufio.Reader) (listed bool, empty uint64, err error) {
	for {
		b, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			return false, empty, nil
		}
		if err != nil {
			return false, empty, err
		}
		switch b {
		case '\n':
			empty++
		case ' ', '\t', '\r':
		default:
			return b == '[', empty, in.UnreadByte()
		}
	}
}

// eachElement reads a JSON list element by element. What is no JSON ends it,
// since nobody knows where the next element would begin.
func eachElement(in *bufio.Reader, one func(number uint64, text []byte, bad error) error) error {
	d := json.NewDecoder(in)
	if _, err := d.Token(); err != nil {
		return err
	}
	number := uint64(0)
	for d.More() {
		number++
		var text json.RawMessage
		if err := d.Decode(&text); err != nil {
			return one(number, nil, fmt.Errorf("the list breaks off here: %w", oneLine(err)))
		}
		if err := one(number, text, nil); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return one(number+1, nil, fmt.Errorf("the list breaks off here: %w", oneLine(err)))
	}
	return nil
}
