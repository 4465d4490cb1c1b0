package stateres

import "slices"

// graph is the part of the auth graph that was walked. Events are renumbered densely, so that walks run on slices, and
// each auth list is asked for once.
type graph struct {
	r     *resolver
	index map[int64]int32
	ids   []int64
	auth  [][]int32
	read  []bool
	arena []int32 // backs the lists in auth
}

func newGraph(r *resolver) *graph { return &graph{r: r, index: map[int64]int32{}} }

// node returns the dense number of an event.
func (g *graph) node(id int64) int32 {
	if n, known := g.index[id]; known {
		return n
	}
	n := int32(len(g.ids))
	g.index[id] = n
	g.ids, g.auth, g.read = append(g.ids, id), append(g.auth, nil), append(g.read, false)
	return n
}

func (g *graph) nodes(ids []int64) []int32 {
	nodes := make([]int32, len(ids))
	for i, id := range ids {
		nodes[i] = g.node(id)
	}
	return nodes
}

// refs returns a node's auth events.
func (g *graph) refs(n int32) ([]int32, error) {
	if err := g.r.step(); err != nil {
		return nil, err
	}
	if !g.read[n] {
		ids, err := g.r.src.Auth(g.ids[n])
		if err != nil {
			return nil, err
		}
		start := len(g.arena)
		for _, id := range ids {
			g.arena = append(g.arena, g.node(id))
		}
		g.auth[n], g.read[n] = g.arena[start:len(g.arena):len(g.arena)], true
	}
	return g.auth[n], nil
}

// chain returns the union of the auth chains of the nodes, in no particular order. A node is in it only if another one
// leads to it. reached is called for each as it is found; false ends the walk.
func (g *graph) chain(starts []int32, reached func(n int32) bool) ([]int32, error) {
	var seen marks
	var found []int32
	for todo := slices.Clone(starts); len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		refs, err := g.refs(n)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			if seen.add(ref) {
				found, todo = append(found, ref), append(todo, ref)
				if !reached(ref) {
					return found, nil
				}
			}
		}
	}
	return found, nil
}

func all(int32) bool { return true }

// leadingTo returns those of the nodes from which following auth events leads to a target, and the targets.
func (g *graph) leadingTo(targets, among []int32) []int32 {
	citing := make([][]int32, len(g.ids))
	for _, n := range among {
		for _, ref := range g.auth[n] {
			citing[ref] = append(citing[ref], n)
		}
	}
	var seen marks
	var found []int32
	visit := func(nodes []int32) {
		for _, n := range nodes {
			if seen.add(n) {
				found = append(found, n)
			}
		}
	}
	visit(targets)
	for i := 0; i < len(found); i++ {
		visit(citing[found[i]])
	}
	return found
}

// marks is a set of nodes.
type marks struct{ set []bool }

func (m *marks) has(n int32) bool { return int(n) < len(m.set) && m.set[n] }

// add reports whether the node is new.
func (m *marks) add(n int32) bool {
	if m.has(n) {
		return false
	}
	if int(n) >= len(m.set) {
		m.set = append(m.set, make([]bool, int(n)+1-len(m.set)+len(m.set)/2)...)
	}
	m.set[n] = true
	return true
}

func (m *marks) addAll(nodes []int32) {
	for _, n := range nodes {
		m.add(n)
	}
}
