// Package archive packs files into one that is read whole or refused: a line
// that says what it is, a tar, and a SHA-256 over both. A Writer lives until
// Close or Abort; nothing has the archive's name before Close.
package archive
