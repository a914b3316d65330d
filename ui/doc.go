// Package ui holds the browser application, which `make build` builds into
// dist and the compiler embeds. A checkout without a build compiles too: dist
// then holds no index.html, and the server says so to browsers.
package ui
