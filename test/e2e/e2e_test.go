// Package e2e lets clients that others wrote use real nodes: matrix-js-sdk, the library of Element, on two nodes that
// federate (js/), in Node and in Chromium, and mautrix-go on one. It needs Node 20.14 or newer and npm, which fetches the
// SDK once.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

const (
	platform = "platform.test"
	merchant = "merchant.test"
	open     = "registration.mode=open"
)

// TestMatrixJSSDK runs the tests in js/ against two nodes.
func TestMatrixJSSDK(t *testing.T) {
	install(t)
	file := filepath.Join(t.TempDir(), "picture.png")
	if err := os.WriteFile(file, picture(), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string][]string{
		"plain":     {"js/accounts.test.js", "js/companies.test.js"},
		"encrypted": {"js/encryption.test.js"}, // by itself: it stops nodes
		"browser":   {"js/browser.test.js"},    // so does this
	} {
		t.Run(name, func(t *testing.T) {
			browser := chromium()
			if name == "browser" && browser == "" {
				t.Skip("matrix-js-sdk in a browser was NOT tested: chromium is missing (Debian: apt install chromium)")
			}
			hstest.Each(t, func(t *testing.T, s *hstest.Site) {
				a, b := s.Start(platform, open), s.Start(merchant, open, "calls.turn.uris=[turn:127.0.0.1:9]", "calls.turn.secret=only named")
				control := httptest.NewServer(controls(map[string]*hstest.Node{"platform": a, "merchant": b}))
				defer control.Close()
				env := []string{"KNOCK_E2E_PLATFORM=" + a.URL(), "KNOCK_E2E_MERCHANT=" + b.URL(), "KNOCK_E2E_PICTURE=" + file, "KNOCK_E2E_CONTROL=" + control.URL,
					"KNOCK_E2E_CHROMIUM=" + browser}
				args := append([]string{"--test", "--test-force-exit", "--test-reporter=spec"}, files...)
				out, err := command(t, 4*time.Minute, env, "node", args...)
				if err != nil {
					t.Error(err)
				}
				t.Logf("%s", out)
			})
		})
	}
}

// controls lets the tests in js/ stop, start and kill nodes.
func controls(nodes map[string]*hstest.Node) http.Handler {
	mux := http.NewServeMux()
	row := func(what string, do func(*hstest.Node) error) {
		mux.HandleFunc("POST /"+what+"/{node}", func(w http.ResponseWriter, r *http.Request) {
			if err := do(nodes[r.PathValue("node")]); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	row("stop", (*hstest.Node).Stop)
	row("start", (*hstest.Node).Start)
	row("spawn", (*hstest.Node).StartProcess) // start in a process of its own, for kill
	row("kill", (*hstest.Node).Kill)
	return mux
}

// install fetches what package-lock.json lists, once for a working copy. It skips the test where that cannot be done.
func install(t *testing.T) {
	if version, ok := nodeVersion(); !ok {
		t.Skipf("matrix-js-sdk was NOT tested: it needs node 20.14 or newer, here is %s (Debian: apt install nodejs npm)", version)
	}
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("matrix-js-sdk was NOT tested: npm is missing (Debian: apt install npm)")
	}
	if installed() {
		return
	}
	out, err := command(t, 5*time.Minute, nil, "npm", "ci", "--ignore-scripts")
	switch {
	case err == nil:
	case unreachable.Match(out) || errors.Is(err, context.DeadlineExceeded):
		t.Skipf("matrix-js-sdk was NOT tested: npm cannot reach its registry\n%s", out)
	default:
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
}

var unreachable = regexp.MustCompile(`ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT`)

// installed compares times as npm does: it writes this file last.
func installed() bool {
	lock, err := os.Stat("package-lock.json")
	if err != nil {
		return false
	}
	done, err := os.Stat("node_modules/.package-lock.json")
	return err == nil && !done.ModTime().Before(lock.ModTime())
}

// chromium is where a browser is, or "".
func chromium() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if file, err := exec.LookPath(name); err == nil {
			return file
		}
	}
	return ""
}

// nodeVersion says which node is in PATH and whether it is new enough.
func nodeVersion() (version string, ok bool) {
	out, err := exec.Command("node", "--version").Output()
	if err != nil {
		return "none", false
	}
	version = strings.TrimSpace(string(out))
	var major, minor int
	_, err = fmt.Sscanf(version, "v%d.%d", &major, &minor)
	return version, err == nil && (major > 20 || major == 20 && minor >= 14)
}

// command runs a program until it or the time ends, and returns all that it printed.
func command(t *testing.T, limit time.Duration, env []string, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // a parent passes it on to its children
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return out, errors.Join(err, ctx.Err())
}

// picture is a PNG of 320 by 240 pixels, a gradient.
func picture() []byte {
	m := image.NewRGBA(image.Rect(0, 0, 320, 240))
	for y := range 240 {
		for x := range 320 {
			m.Set(x, y, color.RGBA{uint8(x * 255 / 320), uint8(y), 128, 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic(err) // memory takes everything
	}
	return b.Bytes()
}
