package agentlink

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	tokenKey    = "authorization"
	tokenPrefix = "Bearer "
	// minToken is the least number of characters of a token.
	minToken = 16
)

// ErrToken says that the server refused the agent's token.
var ErrToken = errors.New("the server refused the agent's token: give the agent the token that the server wrote to its state directory")

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, tokenKey, tokenPrefix+token)
}

func authorize(ctx context.Context, token string) error {
	md, _ := metadata.FromIncomingContext(ctx)
	given := ""
	if values := md.Get(tokenKey); len(values) == 1 {
		given, _ = strings.CutPrefix(values[0], tokenPrefix)
	}
	// Digests have one length, so the comparison tells nothing of the token's.
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
		return status.Error(codes.Unauthenticated, "wrong token")
	}
	return nil
}

func checkToken(token string) error {
	switch {
	case len(token) < minToken:
		return errors.New("token: missing or shorter than 16 characters")
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("token: has a space or a character that is not ASCII")
	}
	return nil
}
