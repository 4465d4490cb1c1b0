package notices

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"knock/internal/matrixerr"
)

// Job is a notice to many users, or to all. It survives a restart, and goes on where it was.
type Job struct {
	ID      string
	Sent    int64 // users who got it
	Failed  int64 // users who did not, such as those deactivated meanwhile
	Created int64 // ms
	Ended   int64 // ms, 0 while users are left

	content json.RawMessage
	users   []byte // JSON list of localparts, empty for everybody
	passed  string // localpart up to which it has come
}

// Bounds of a job.
const (
	maxID      = 255      // bytes
	maxContent = 32 << 10 // bytes: what is left of an event is for its envelope
	portion    = 50       // users between two looks at what is to be done
	retryAfter = 10 * time.Second
)

// Announce has a notice sent to some users of this server, or to everybody when users is nil: to all accounts but guests',
// deactivated ones and those of application services. The same id announces it once. Errors: M_INVALID_PARAM,
// M_NOT_FOUND, M_USER_DEACTIVATED, M_TOO_LARGE.
func (s *Service) Announce(ctx context.Context, id string, users []string, content json.RawMessage) (Job, error) {
	switch {
	case id == "" || len(id) > maxID:
		return Job{}, matrixerr.InvalidParam(fmt.Sprintf("The id of a notice has 1 to %d bytes", maxID))
	case len(content) > maxContent:
		return Job{}, matrixerr.TooLarge(fmt.Sprintf("A notice may have at most %d bytes", maxContent))
	case users != nil && len(users) == 0:
		return Job{}, matrixerr.InvalidParam("The list of users is empty")
	}
	if err := s.makeSender(ctx); err != nil {
		return Job{}, err
	}
	j := Job{ID: id, content: content, users: []byte{}, Created: s.o.Clock.Millis()}
	if users != nil {
		locals, err := s.localparts(ctx, users)
		if err != nil {
			return Job{}, err
		}
		if j.users, err = json.Marshal(locals); err != nil {
			return Job{}, err
		}
	}
	n, err := s.store.write(ctx, jobInsert, j.ID, []byte(j.content), j.users, "", 0, 0, j.Created, 0)
	if err != nil {
		return Job{}, err
	}
	if n == 0 {
		return s.same(ctx, j)
	}
	s.rouse()
	return j, nil
}

// localparts checks users and puts them in order.
func (s *Service) localparts(ctx context.Context, users []string) ([]string, error) {
	list := make([]string, len(users))
	for i, user := range users {
		if err := s.Check(ctx, user); err != nil {
			return nil, err
		}
		list[i], _ = s.o.Accounts.Localpart(user)
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// same is the job that has an id already, if it is the same.
func (s *Service) same(ctx context.Context, j Job) (Job, error) {
	was, err := s.Job(ctx, j.ID)
	if err == nil && (!bytes.Equal(was.content, j.content) || !bytes.Equal(was.users, j.users)) {
		err = matrixerr.InvalidParam("Another notice has this id; choose a new one")
	}
	return was, err
}

// Job is how far a notice is; M_NOT_FOUND when there is none of this id.
func (s *Service) Job(ctx context.Context, id string) (Job, error) {
	list, err := s.store.jobs(ctx, jobSelect, id)
	if err == nil && len(list) == 0 {
		err = unknownJob()
	}
	if err != nil {
		return Job{}, err
	}
	return list[0], nil
}

// Jobs are the newest notices, at most limit.
func (s *Service) Jobs(ctx context.Context, limit int) ([]Job, error) {
	return s.store.jobs(ctx, jobsNewest, limit)
}

// Forget removes a notice from the list. Users who were not told yet are not told any more.
func (s *Service) Forget(ctx context.Context, id string) error {
	n, err := s.store.write(ctx, jobDelete, id)
	if err == nil && n == 0 {
		err = unknownJob()
	}
	return err
}

func unknownJob() error { return matrixerr.NotFound("There is no notice of this id") }

func (s *Service) rouse() {
	select {
	case s.wake <- struct{}{}:
	default: // it is about to look
	}
}

// Run sends what was announced, one user after the other, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		more, err := s.work(ctx)
		if more && err == nil {
			continue
		}
		var again <-chan time.Time
		if err != nil && ctx.Err() == nil {
			s.o.Log.WithError(err).Warn("A notice could not be sent; it is tried again in a moment")
			again = time.After(retryAfter)
		}
		select {
		case <-s.wake:
		case <-again:
		case <-ctx.Done():
		}
	}
	return nil
}

// work tells some users of the oldest notice that has users left.
func (s *Service) work(ctx context.Context) (more bool, err error) {
	list, err := s.store.jobs(ctx, jobNext, 0)
	if err != nil || len(list) == 0 {
		return false, err
	}
	j := list[0]
	locals, err := s.next(ctx, j)
	if err != nil {
		return false, err
	}
	ended := int64(0)
	if len(locals) == 0 {
		ended = s.o.Clock.Millis()
	}
	passed, sent, failed, err := s.tell(ctx, j, locals)
	if _, saveErr := s.store.write(context.WithoutCancel(ctx), jobPass, j.ID, passed, sent, failed, ended); err == nil {
		err = saveErr
	}
	return true, err
}

// tell sends a notice to some users and counts them, until something fails that may pass.
func (s *Service) tell(ctx context.Context, j Job, locals []string) (passed string, sent, failed int64, err error) {
	passed = j.passed
	for _, local := range locals {
		user := UserID(local, s.o.Accounts.ServerName())
		person, err := s.person(ctx, user)
		if err != nil {
			return passed, sent, failed, err
		}
		if len(j.users) > 0 || person {
			_, err := s.Send(ctx, Notice{User: user, Content: j.content, TxnID: "notice", Scope: "job " + j.ID})
			switch {
			case err == nil:
				sent++
			case ctx.Err() == nil && refused(err):
				failed++
				s.o.Log.WithError(err).WithField("user", user).Info("A user cannot be sent a notice")
			default:
				return passed, sent, failed, err
			}
		}
		passed = local
	}
	return passed, sent, failed, nil
}

// person reports whether a user gets what is for everybody. Senders do not, those of before neither.
func (s *Service) person(ctx context.Context, user string) (bool, error) {
	if s.o.Serviced != nil && s.o.Serviced(user) {
		return false, nil
	}
	sender, err := s.store.isSender(ctx, user)
	return !sender, err
}

// next lists users who come next, by their localparts.
func (s *Service) next(ctx context.Context, j Job) ([]string, error) {
	if len(j.users) == 0 {
		return s.o.Accounts.People(ctx, j.passed, portion)
	}
	var all []string
	if err := json.Unmarshal(j.users, &all); err != nil {
		return nil, fmt.Errorf("users of notice %s: %w", j.ID, err)
	}
	i, found := slices.BinarySearch(all, j.passed)
	if found {
		i++
	}
	return all[i:min(i+portion, len(all))], nil
}
