package store

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/cache"
	"knock/internal/sqldb"
)

// names is the dictionary of strings and of (type, state key) tuples. Its rows
// are committed before anything names them and are never changed, so a cached
// number is always right.
type names struct {
	db     *sqldb.DB
	nids   *cache.Cache[string, int64]
	texts  *cache.Cache[int64, string]
	tuples *cache.Cache[Tuple, int64]
	keys   *cache.Cache[int64, Tuple]
}

// Tuple names a piece of room state.
type Tuple struct{ Type, Key string }

const cachedNames = 200_000

func newNames(db *sqldb.DB, reg prometheus.Registerer) *names {
	return &names{
		db:     db,
		nids:   cache.New(cache.Options[string, int64]{Name: "name_nids", Entries: cachedNames, Shards: 8, Registerer: reg}),
		texts:  cache.New(cache.Options[int64, string]{Name: "names", Entries: cachedNames, Shards: 8, Registerer: reg}),
		tuples: cache.New(cache.Options[Tuple, int64]{Name: "tuple_nids", Entries: cachedNames, Shards: 8, Registerer: reg}),
		keys:   cache.New(cache.Options[int64, Tuple]{Name: "tuples", Entries: cachedNames, Shards: 8, Registerer: reg}),
	}
}

var (
	nameNID    = sqldb.Register("names.nid", `SELECT nid FROM names WHERE s = $1`)
	nameText   = sqldb.Register("names.text", `SELECT s FROM names WHERE nid = $1`)
	nameTexts  = sqldb.Register("names.texts", `SELECT nid, s FROM names WHERE nid = ANY($1::bigint[])`)
	nameNIDs   = sqldb.Register("names.nids", `SELECT nid, s FROM names WHERE s = ANY($1::bytea[])`)
	insertName = sqldb.RegisterInsert("names.insert", `INSERT INTO names (nid, s) VALUES`, 2, `ON CONFLICT DO NOTHING`)
	tupleNID   = sqldb.Register("tuples.nid", `SELECT t.nid FROM tuples t JOIN names a ON a.nid = t.type JOIN names b ON b.nid = t.key WHERE a.s = $1 AND b.s = $2`)
	tupleTexts = sqldb.Register("tuples.texts", `SELECT t.nid, a.s, b.s FROM tuples t JOIN names a ON a.nid = t.type JOIN names b ON b.nid = t.key WHERE t.nid = ANY($1::bigint[])`)
	tuplesOf   = sqldb.Register("tuples.ofType", `SELECT nid, key FROM tuples WHERE type = $1 AND key = ANY($2::bigint[])`)
	insertTup  = sqldb.RegisterInsert("tuples.insert", `INSERT INTO tuples (nid, type, key) VALUES`, 3, `ON CONFLICT DO NOTHING`)
)

// FindName returns the number of a string, or 0 when it has none.
func (s *Store) FindName(tx *sqldb.Tx, text string) (int64, error) {
	if nid, ok := s.names.nids.Get(text); ok {
		return nid, nil
	}
	var nid int64
	err := notFound(tx.QueryRow(nameNID, []byte(text)).Scan(&nid))
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err == nil {
		s.names.keep(nid, text)
	}
	return nid, err
}

func (n *names) keep(nid int64, text string) {
	n.nids.Put(text, nid)
	n.texts.Put(nid, text)
}

// Name returns the string of a number.
func (s *Store) Name(tx *sqldb.Tx, nid int64) (string, error) {
	if text, ok := s.names.texts.Get(nid); ok {
		return text, nil
	}
	var text []byte
	if err := tx.QueryRow(nameText, nid).Scan(&text); err != nil {
		return "", notFound(err)
	}
	s.names.keep(nid, string(text))
	return string(text), nil
}

// Names returns the strings of numbers.
func (s *Store) Names(tx *sqldb.Tx, nids []int64) (map[int64]string, error) {
	out := make(map[int64]string, len(nids))
	var absent []int64
	for _, nid := range nids {
		if text, ok := s.names.texts.Get(nid); ok {
			out[nid] = text
		} else {
			absent = append(absent, nid)
		}
	}
	if len(absent) == 0 {
		return out, nil
	}
	rows, err := tx.Query(nameTexts, absent)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var nid int64
		var text []byte
		if err := rows.Scan(&nid, &text); err != nil {
			return nil, err
		}
		s.names.keep(nid, string(text))
		out[nid] = string(text)
	}
	return out, rows.Err()
}

// Intern returns the numbers of strings, giving new ones to those that have
// none. It waits for a commit when there is a new one.
func (s *Store) Intern(ctx context.Context, texts ...string) ([]int64, error) {
	nids := make([]int64, len(texts))
	var absent []string
	for i, text := range texts {
		nid, ok := s.names.nids.Get(text)
		if !ok {
			absent = append(absent, text)
		}
		nids[i] = nid
	}
	if len(absent) == 0 {
		return nids, nil
	}
	found, err := s.internAbsent(ctx, absent)
	if err != nil {
		return nil, err
	}
	for i, text := range texts {
		if nids[i] == 0 {
			nids[i] = found[text]
		}
	}
	return nids, nil
}

func (s *Store) internAbsent(ctx context.Context, texts []string) (map[string]int64, error) {
	found := make(map[string]int64, len(texts))
	lookup := func(tx *sqldb.Tx) error { return s.lookupNames(tx, texts, found) }
	if err := s.DB.Read(ctx, lookup); err != nil || len(found) == distinct(texts) {
		return found, err
	}
	rows := make([][]any, 0, len(texts))
	for _, text := range texts {
		if found[text] == 0 {
			rows = append(rows, []any{s.DB.NextID(), []byte(text)})
		}
	}
	err := s.DB.Do(ctx, &sqldb.Op{
		Name:  "names",
		Write: func(tx *sqldb.Tx, _ int64) error { return tx.Insert(insertName, rows...) },
	})
	if err != nil {
		return nil, err
	}
	return found, s.DB.Read(ctx, lookup)
}

func (s *Store) lookupNames(tx *sqldb.Tx, texts []string, found map[string]int64) error {
	keys := make([][]byte, len(texts))
	for i, text := range texts {
		keys[i] = []byte(text)
	}
	rows, err := tx.Query(nameNIDs, keys)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var nid int64
		var text []byte
		if err := rows.Scan(&nid, &text); err != nil {
			return err
		}
		found[string(text)] = nid
		s.names.keep(nid, string(text))
	}
	return rows.Err()
}

func distinct(texts []string) int {
	seen := make(map[string]struct{}, len(texts))
	for _, text := range texts {
		seen[text] = struct{}{}
	}
	return len(seen)
}

// FindTuple returns the number of a (type, state key), or 0 when it has none.
func (s *Store) FindTuple(tx *sqldb.Tx, t Tuple) (int64, error) {
	if nid, ok := s.names.tuples.Get(t); ok {
		return nid, nil
	}
	var nid int64
	err := notFound(tx.QueryRow(tupleNID, []byte(t.Type), []byte(t.Key)).Scan(&nid))
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err == nil {
		s.names.keepTuple(nid, t)
	}
	return nid, err
}

// CachedTuple returns the number of a tuple without touching the database.
func (s *Store) CachedTuple(t Tuple) (int64, bool) { return s.names.tuples.Get(t) }

func (n *names) keepTuple(nid int64, t Tuple) {
	n.tuples.Put(t, nid)
	n.keys.Put(nid, t)
}

// Tuples returns the (type, state key) of tuple numbers.
func (s *Store) Tuples(tx *sqldb.Tx, nids []int64) (map[int64]Tuple, error) {
	out := make(map[int64]Tuple, len(nids))
	var absent []int64
	for _, nid := range nids {
		if t, ok := s.names.keys.Get(nid); ok {
			out[nid] = t
		} else {
			absent = append(absent, nid)
		}
	}
	if len(absent) == 0 {
		return out, nil
	}
	rows, err := tx.Query(tupleTexts, absent)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var nid int64
		var typ, key []byte
		if err := rows.Scan(&nid, &typ, &key); err != nil {
			return nil, err
		}
		t := Tuple{string(typ), string(key)}
		s.names.keepTuple(nid, t)
		out[nid] = t
	}
	return out, rows.Err()
}

// InternTuples returns the numbers of tuples, giving new ones to those that
// have none. It waits for a commit when there is a new one.
func (s *Store) InternTuples(ctx context.Context, tuples []Tuple) ([]int64, error) {
	out := make([]int64, len(tuples))
	var absent []Tuple
	for i, t := range tuples {
		nid, ok := s.names.tuples.Get(t)
		if !ok {
			absent = append(absent, t)
		}
		out[i] = nid
	}
	if len(absent) == 0 {
		return out, nil
	}
	if err := s.internAbsentTuples(ctx, absent); err != nil {
		return nil, err
	}
	for i, t := range tuples {
		if out[i] != 0 {
			continue
		}
		if err := s.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
			out[i], err = s.FindTuple(tx, t)
			return err
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// internAbsentTuples makes sure that each tuple has a row. Tuples of one type
// are looked up together, which makes the join of a large room a few statements.
func (s *Store) internAbsentTuples(ctx context.Context, tuples []Tuple) error {
	texts := make([]string, 0, 2*len(tuples))
	for _, t := range tuples {
		texts = append(texts, t.Type, t.Key)
	}
	nids, err := s.Intern(ctx, texts...)
	if err != nil {
		return err
	}
	keys := map[int64][]int64{}
	byPair := map[[2]int64]Tuple{}
	for i, t := range tuples {
		typ, key := nids[2*i], nids[2*i+1]
		if _, seen := byPair[[2]int64{typ, key}]; !seen {
			byPair[[2]int64{typ, key}] = t
			keys[typ] = append(keys[typ], key)
		}
	}
	known := func(tx *sqldb.Tx) error { return s.lookupTuples(tx, keys, byPair) }
	if err := s.DB.Read(ctx, known); err != nil || len(byPair) == 0 {
		return err
	}
	rows := make([][]any, 0, len(byPair))
	for pair := range byPair {
		rows = append(rows, []any{s.DB.NextID(), pair[0], pair[1]})
	}
	err = s.DB.Do(ctx, &sqldb.Op{
		Name:  "tuples",
		Write: func(tx *sqldb.Tx, _ int64) error { return tx.Insert(insertTup, rows...) },
	})
	if err != nil {
		return err
	}
	return s.DB.Read(ctx, known)
}

// lookupTuples caches the tuples that have rows and takes them out of byPair.
func (s *Store) lookupTuples(tx *sqldb.Tx, keys map[int64][]int64, byPair map[[2]int64]Tuple) error {
	for typ, list := range keys {
		rows, err := tx.Query(tuplesOf, typ, list)
		if err != nil {
			return err
		}
		for rows.Next() {
			var nid, key int64
			if err := rows.Scan(&nid, &key); err != nil {
				rows.Close()
				return err
			}
			if t, ok := byPair[[2]int64{typ, key}]; ok {
				s.names.keepTuple(nid, t)
				delete(byPair, [2]int64{typ, key})
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
	}
	return nil
}
