package people

import (
	"context"
	"errors"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/reports"
	"knock/roomserver"
	"knock/roomserver/event"
)

// reportBody is the body of all reports; only events were given a score.
type reportBody struct {
	Reason string `json:"reason"`
	Score  *int64 `json:"score"`
}

func (a *API) report(ctx context.Context, r *httpx.Request, fill func(*reports.Report) error) (any, error) {
	var body reportBody
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	report := reports.Report{Reporter: r.Caller.UserID, Reason: body.Reason}
	if err := fill(&report); err != nil {
		return nil, roomserver.MatrixError(err)
	}
	if report.Kind == reports.Event {
		report.Score = body.Score
	}
	return nil, a.o.Reports.Add(ctx, report)
}

var errNoEvent = matrixerr.NotFound("The event was not found, or you are not in the room.")

// reportEvent takes reports from those only who are in the event's room.
func (a *API) reportEvent(ctx context.Context, r *httpx.Request) (any, error) {
	return a.report(ctx, r, func(report *reports.Report) error {
		room := r.Vars["roomId"]
		if !a.o.Rooms.Hub.IsJoined(r.Caller.UserID, room) {
			return errNoEvent
		}
		e, err := a.o.Rooms.EventFor(ctx, room, r.Vars["eventId"], r.Caller.UserID)
		if errors.Is(err, roomserver.ErrUnknownEvent) {
			return errNoEvent.With(err)
		}
		if err != nil {
			return err
		}
		report.Kind, report.Room, report.Event, report.Target = reports.Event, room, e.ID, e.Event.Sender()
		return nil
	})
}

// reportRoom takes reports from everybody: a room can be harmful to who only sees its name.
func (a *API) reportRoom(ctx context.Context, r *httpx.Request) (any, error) {
	return a.report(ctx, r, func(report *reports.Report) error {
		report.Kind, report.Room = reports.Room, r.Vars["roomId"]
		_, err := a.o.Rooms.Room(ctx, report.Room)
		return err
	})
}

// reportUser takes reports from everybody. Of users of other servers nobody knows whether they exist.
func (a *API) reportUser(ctx context.Context, r *httpx.Request) (any, error) {
	return a.report(ctx, r, func(report *reports.Report) error {
		report.Kind, report.Target = reports.User, r.Vars["userId"]
		if !event.ValidUserID(report.Target) {
			return matrixerr.InvalidParam("This is not a user id, such as @alice:example.org")
		}
		if !a.o.Rooms.IsLocal(report.Target) {
			return nil
		}
		exists, err := a.o.Exists(ctx, report.Target)
		if err == nil && !exists {
			err = matrixerr.NotFound("The user was not found.")
		}
		return err
	})
}
