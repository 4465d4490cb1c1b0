package appservice

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

var (
	networkAdd     = sqldb.Register("appservices.networkAdd", `INSERT INTO appservice_rooms (service, network, room) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
	networkRemove  = sqldb.Register("appservices.networkRemove", `DELETE FROM appservice_rooms WHERE service = $1 AND network = $2 AND room = $3`)
	networkRooms   = sqldb.Register("appservices.networkRooms", `SELECT room FROM appservice_rooms WHERE service = $1 AND network = $2`)
	networksListed = sqldb.Register("appservices.networksListed", `SELECT DISTINCT room FROM appservice_rooms WHERE service = ANY($1::bytea[])`)
)

// Bounds of third-party lookups.
const (
	lookupTime     = 10 * time.Second // all services together
	protocolFor    = time.Minute      // what a protocol is is believed so long
	maxResults     = 1000             // of all services together
	maxNetwork     = 255              // bytes of a network's id
	askedAtOnce    = 8
	instanceParted = "|" // between a service's id and a network's in an instance_id
)

// PublishRoom lists a room in the directory of one of a service's networks, or takes it out. It returns after the commit.
// Errors: M_INVALID_PARAM.
func (s *Services) PublishRoom(ctx context.Context, v *Service, network string, room int64, public bool) error {
	if network == "" || len(network) > maxNetwork {
		return matrixerr.InvalidParam("The id of a network has 1 to 255 bytes")
	}
	stmt := networkRemove
	if public {
		stmt = networkAdd
	}
	return s.o.DB.Do(ctx, &sqldb.Op{Name: "appservice.publish", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(stmt, v.ID, network, room)
		return err
	}})
}

// Networks is where to look for the rooms of a directory that a third_party_instance_id names, or of all beside the
// server's own: find is nil when only that is wanted, only says that it is not wanted. Errors: M_INVALID_PARAM.
func (s *Services) Networks(instance string, all bool) (find func(*sqldb.Tx) ([]int64, error), only bool, err error) {
	number := func(r *sqldb.Rows) (room int64, err error) { return room, r.Scan(&room) }
	switch {
	case instance != "" && all:
		return nil, false, matrixerr.InvalidParam("third_party_instance_id and include_all_networks cannot be used together")
	case instance != "":
		service, network, _ := strings.Cut(instance, instanceParted)
		return func(tx *sqldb.Tx) ([]int64, error) {
			if s.ByID(service) == nil {
				return nil, nil
			}
			return sqldb.Collect(tx, networkRooms, number, service, network)
		}, true, nil
	case all && s.Any():
		return func(tx *sqldb.Tx) ([]int64, error) {
			return sqldb.Collect(tx, networksListed, number, keysOf(s.reg.byID))
		}, false, nil
	}
	return nil, false, nil
}

func keysOf(m map[string]*Service) (keys []string) {
	for key := range m {
		keys = append(keys, key)
	}
	return keys
}

// Protocol is what services say of a protocol, an object as the Client-Server API has it.
type Protocol map[string]json.RawMessage

// protocols keeps what services said of their protocols.
type protocols struct {
	mu    sync.Mutex
	known map[string]knownProtocol
}

type knownProtocol struct {
	at   time.Time
	says Protocol // nil: no service answered
}

// Protocols returns what the services say of the protocols that they are registered for. One whose services do not
// answer is left out.
func (s *Services) Protocols(ctx context.Context) map[string]Protocol {
	out := map[string]Protocol{}
	if s == nil {
		return out
	}
	names := map[string]bool{}
	for _, v := range s.reg.list {
		for _, name := range v.Protocols {
			names[name] = true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var all errgroup.Group
	all.SetLimit(askedAtOnce)
	var mu sync.Mutex
	for name := range names {
		all.Go(func() error {
			if p := s.protocol(ctx, name); p != nil {
				mu.Lock()
				defer mu.Unlock()
				out[name] = p
			}
			return nil
		})
	}
	_ = all.Wait() // they return no errors
	return out
}

// Protocol is Protocols for one; nil when it is not known.
func (s *Services) Protocol(ctx context.Context, name string) Protocol {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	return s.protocol(ctx, name)
}

// protocol asks the services of a protocol. The first that answers describes it, and all add their instances.
func (s *Services) protocol(ctx context.Context, name string) Protocol {
	services := s.providers(name)
	if len(services) == 0 {
		return nil
	}
	s.protocols.mu.Lock()
	known, ok := s.protocols.known[name]
	s.protocols.mu.Unlock()
	if ok && (time.Since(known.at) < refusedFor || known.says != nil && time.Since(known.at) < protocolFor) {
		return known.says
	}
	says, err, _ := s.asked.flight.Do("protocol "+name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryTime)
		defer cancel()
		var merged Protocol
		var instances []map[string]json.RawMessage
		for i, answer := range s.askAll(ctx, services, "/thirdparty/protocol/"+url.PathEscape(name), nil) {
			var p Protocol
			if json.Unmarshal(answer, &p) != nil || !p.whole() {
				continue
			}
			instances = append(instances, named(services[i], p)...)
			if merged == nil {
				merged = p
			}
		}
		if merged != nil {
			if instances == nil {
				instances = []map[string]json.RawMessage{}
			}
			encoded, err := json.Marshal(instances)
			if err != nil {
				return Protocol(nil), err
			}
			merged["instances"] = encoded
		}
		s.protocols.keep(name, merged)
		return merged, nil
	})
	if err != nil {
		return nil
	}
	return says.(Protocol)
}

// whole says whether the service told everything that clients need of a protocol.
func (p Protocol) whole() bool {
	var fields []string
	var types map[string]json.RawMessage
	var icon string
	for key, into := range map[string]any{"user_fields": &fields, "location_fields": &fields, "field_types": &types, "icon": &icon} {
		if raw, ok := p[key]; !ok || json.Unmarshal(raw, into) != nil {
			return false
		}
	}
	return true
}

func (p *protocols) keep(name string, says Protocol) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[name] = knownProtocol{time.Now(), says}
}

// named are the instances of a protocol with the ids by which clients ask for their directories.
func named(v *Service, p Protocol) (instances []map[string]json.RawMessage) {
	var list []map[string]json.RawMessage
	if json.Unmarshal(p["instances"], &list) != nil {
		return nil
	}
	for _, instance := range list[:min(len(list), maxResults)] {
		var network string
		if json.Unmarshal(instance["network_id"], &network) != nil {
			continue
		}
		id, err := json.Marshal(v.ID + instanceParted + network)
		if err != nil {
			continue
		}
		instance["instance_id"] = id
		instances = append(instances, instance)
	}
	return instances
}

// providers are the services that can be asked of a protocol, "" for any.
func (s *Services) providers(protocol string) (out []*Service) {
	for _, v := range s.reg.list {
		if v.URL != "" && len(v.Protocols) > 0 && (protocol == "" || v.Provides(protocol)) {
			out = append(out, v)
		}
	}
	return out
}

// askAll asks services at the same time; a nil answer is none.
func (s *Services) askAll(ctx context.Context, services []*Service, path string, query url.Values) [][]byte {
	answers := make([][]byte, len(services))
	var all errgroup.Group
	all.SetLimit(askedAtOnce)
	for i, v := range services {
		all.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, queryTime)
			defer cancel()
			answer, err := s.client.call(ctx, v, http.MethodGet, path, unstableAPI+path, query, nil)
			if err != nil {
				s.o.Log.WithError(err).WithField("service", v.ID).Info("An application service did not answer a lookup")
			}
			answers[i] = bytes.TrimSpace(answer)
			return nil
		})
	}
	_ = all.Wait() // they return no errors
	return answers
}

// Lookup asks for locations or users (kind is "location" or "user") of a protocol by its fields; with protocol "", for
// those of an alias or a user id that query names. Results without the fields of the specification are left out.
// It is empty when nothing is found, and ok is false when no service has the protocol.
func (s *Services) Lookup(ctx context.Context, kind, protocol string, query url.Values) (found []json.RawMessage, ok bool) {
	if s == nil {
		return nil, false
	}
	services := s.providers(protocol)
	if len(services) == 0 {
		return nil, false
	}
	path := "/thirdparty/" + kind
	if protocol != "" {
		path += "/" + url.PathEscape(protocol)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	for _, answer := range s.askAll(ctx, services, path, query) {
		var list []json.RawMessage
		if json.Unmarshal(answer, &list) == nil {
			list = slices.DeleteFunc(list, func(raw json.RawMessage) bool { return !isResult(kind, raw) })
			found = append(found, list[:min(len(list), maxResults-len(found))]...)
		}
	}
	return found, true
}

func isResult(kind string, raw json.RawMessage) bool {
	var r struct {
		Alias    *string                    `json:"alias"`
		UserID   *string                    `json:"userid"`
		Protocol *string                    `json:"protocol"`
		Fields   map[string]json.RawMessage `json:"fields"`
	}
	if json.Unmarshal(raw, &r) != nil || r.Protocol == nil || r.Fields == nil {
		return false
	}
	return kind == "user" && r.UserID != nil || kind == "location" && r.Alias != nil
}
