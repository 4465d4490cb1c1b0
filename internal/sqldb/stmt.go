package sqldb

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
)

// Dialect names a database engine.
type Dialect uint8

// The engines.
const (
	SQLite Dialect = iota
	Postgres
)

func (d Dialect) String() string {
	if d == SQLite {
		return "sqlite"
	}
	return "postgres"
}

// Stmt is a registered statement. Make one with Register, in a package-level variable.
type Stmt struct {
	name    string
	id      int // index into the statement caches of connections
	only    int // -1 for both engines, else the Dialect it is for
	text    [2]string
	returns bool // gives rows
}

// Name is the statement's registered name.
func (s *Stmt) Name() string { return s.name }

// Text is the statement in the dialect's own SQL.
func (s *Stmt) Text(d Dialect) string { return s.text[d] }

// Insert is a registered multi-row INSERT. Make one with RegisterInsert, in a package-level variable.
type Insert struct {
	name       string
	id         int
	columns    int
	head, tail [2]string
	sizes      []*Stmt // statement for 1<<i rows
}

// Name is the insert's registered name.
func (ins *Insert) Name() string { return ins.name }

// registry holds the registered SQL constants of the program; it only grows, at package initialisation.
var registry struct {
	sync.Mutex
	names   map[string]bool
	stmts   []*Stmt
	inserts []*Insert
	ids     int
}

// Register registers a statement written in PostgreSQL dialect. The name ("account.tokenByHash") must be unique.
func Register(name, text string) *Stmt {
	return register(name, -1, [2]string{Rewrite(text), text})
}

// RegisterFor registers a statement that exists on one engine only, in that engine's own SQL.
func RegisterFor(d Dialect, name, text string) *Stmt {
	var texts [2]string
	texts[d] = text
	return register(name, int(d), texts)
}

func register(name string, only int, texts [2]string) *Stmt {
	registry.Lock()
	defer registry.Unlock()
	claimName(name)
	s := newStmt(name, only, texts)
	registry.stmts = append(registry.stmts, s)
	return s
}

func claimName(name string) {
	if registry.names[name] {
		panic("sqldb: statement " + name + " is registered twice")
	}
	if registry.names == nil {
		registry.names = make(map[string]bool)
	}
	registry.names[name] = true
}

func newStmt(name string, only int, texts [2]string) *Stmt {
	s := &Stmt{name: name, id: registry.ids, only: only, text: texts}
	s.returns = returnsRows(texts[SQLite]) || returnsRows(texts[Postgres])
	registry.ids++
	return s
}

// maxParams is the smaller of the engines' limits (SQLite 32,766; PostgreSQL 65,535), and maxInsertBits bounds the rows
// of one statement to 128: larger ones gain nothing.
const (
	maxParams     = 32766
	maxInsertBits = 8
)

// RegisterInsert registers a multi-row INSERT: head is "INSERT INTO t (a, b) VALUES", columns the number of values of a
// row, tail "" or "ON CONFLICT DO NOTHING" and the like.
func RegisterInsert(name, head string, columns int, tail string) *Insert {
	registry.Lock()
	defer registry.Unlock()
	claimName(name)
	ins := &Insert{name: name, id: len(registry.inserts), columns: columns}
	ins.head = [2]string{Rewrite(head), head}
	ins.tail = [2]string{Rewrite(tail), tail}
	for i := 0; i < maxInsertBits && columns<<i <= maxParams; i++ {
		ins.sizes = append(ins.sizes, newStmt(name, -1, ins.texts(1<<i)))
	}
	registry.inserts = append(registry.inserts, ins)
	return ins
}

func (ins *Insert) texts(rows int) [2]string {
	return [2]string{ins.build(SQLite, '?', rows), ins.build(Postgres, '$', rows)}
}

func (ins *Insert) build(d Dialect, mark byte, rows int) string {
	var b strings.Builder
	b.WriteString(ins.head[d])
	n := 0
	for r := range rows {
		if r > 0 {
			b.WriteByte(',')
		}
		b.WriteString(" (")
		for c := range ins.columns {
			if c > 0 {
				b.WriteString(", ")
			}
			n++
			fmt.Fprintf(&b, "%c%d", mark, n)
		}
		b.WriteByte(')')
	}
	if ins.tail[d] != "" {
		b.WriteString(" " + ins.tail[d])
	}
	return b.String()
}

// chunks calls fn with a statement and its arguments until all of args (whole rows, end to end) is used up.
func (ins *Insert) chunks(args []any, fn func(*Stmt, []any) error) error {
	for rows := len(args) / ins.columns; rows > 0; {
		bit := min(bits.Len(uint(rows)), len(ins.sizes)) - 1
		n := ins.columns << bit
		if err := fn(ins.sizes[bit], args[:n]); err != nil {
			return err
		}
		args, rows = args[n:], rows-1<<bit
	}
	return nil
}

// All lists the registered statements that exist on the dialect, each Insert by its one-row form, in order of
// registration.
func All(d Dialect) []*Stmt {
	registry.Lock()
	defer registry.Unlock()
	var out []*Stmt
	for _, s := range registry.stmts {
		if s.only < 0 || s.only == int(d) {
			out = append(out, s)
		}
	}
	for _, ins := range registry.inserts {
		out = append(out, ins.sizes[0])
	}
	slices.SortFunc(out, func(a, b *Stmt) int { return a.id - b.id })
	return out
}

func insertByID(id int) *Insert {
	registry.Lock()
	defer registry.Unlock()
	return registry.inserts[id]
}
