// Package obs owns how a node is watched: the logger and its levels by component, the registry of metrics, and the
// pages for probes and scrapers.
package obs

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
)

// LogOptions say what is written and how.
type LogOptions struct {
	Format string            // "text" (default) or "json"
	Level  string            // for components without a level of their own; default "info"
	Levels map[string]string // by component: "federation": "debug"
}

// Logs makes the loggers of components and can change their levels while they are in use.
type Logs struct {
	out       *lockedWriter
	format    logrus.Formatter
	mu        sync.Mutex
	fallback  logrus.Level
	levels    map[string]logrus.Level
	component map[string]*logrus.Logger
}

// NewLogs checks the options and makes loggers that write to w, one whole line at a time.
func NewLogs(w io.Writer, o LogOptions) (*Logs, error) {
	l := &Logs{out: &lockedWriter{w: w}, component: map[string]*logrus.Logger{}}
	switch o.Format {
	case "", "text":
		l.format = &logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "2006-01-02T15:04:05.000Z07:00"}
	case "json":
		l.format = &logrus.JSONFormatter{}
	default:
		return nil, fmt.Errorf("log format %q: use text or json", o.Format)
	}
	return l, l.SetLevels(o)
}

// Component is the logger of one part; the name is in each of its lines.
func (l *Logs) Component(name string) *logrus.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	logger, ok := l.component[name]
	if !ok {
		logger = logrus.New()
		logger.SetOutput(l.out)
		logger.SetFormatter(l.format)
		logger.SetLevel(l.level(name))
		l.component[name] = logger
	}
	return logger.WithField("part", name)
}

// SetLevels changes the levels of all loggers, those in use too. With an error nothing is changed.
func (l *Logs) SetLevels(o LogOptions) error {
	fallback, err := ParseLevel(o.Level)
	if err != nil {
		return err
	}
	levels := make(map[string]logrus.Level, len(o.Levels))
	for name, s := range o.Levels {
		if levels[name], err = ParseLevel(s); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fallback, l.levels = fallback, levels
	for name, logger := range l.component {
		logger.SetLevel(l.level(name))
	}
	return nil
}

func (l *Logs) level(name string) logrus.Level {
	if level, ok := l.levels[name]; ok {
		return level
	}
	return l.fallback
}

// levelNames are the names that ParseLevel takes, the quietest first.
var levelNames = []string{"error", "warn", "info", "debug", "trace"}

// ParseLevel reads a level's name; "" is info.
func ParseLevel(s string) (logrus.Level, error) {
	if s == "" {
		return logrus.InfoLevel, nil
	}
	if !slices.Contains(levelNames, s) {
		return 0, fmt.Errorf("log level %q: use one of %s", s, strings.Join(levelNames, ", "))
	}
	return logrus.ParseLevel(s)
}

// lockedWriter keeps the lines of several loggers apart.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}
