package mediaapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"knock/internal/matrixerr"
	"knock/mediaapi/files"
	"knock/mediaapi/thumb"
)

// want is what thumbnail somebody asks for.
type want struct {
	width, height  int
	crop, animated bool
}

// maxAsked is the largest side that means something: all above is the original.
const maxAsked = 1 << 16

// standard are the sizes of the specification. They are all made when an image is first decoded: decoding is what
// costs.
var standard = []thumb.Size{
	{Width: 32, Height: 32, Crop: true}, {Width: 96, Height: 96, Crop: true},
	{Width: 320, Height: 240}, {Width: 640, Height: 480}, {Width: 800, Height: 600},
}

// larger are made when somebody asks for them: dense screens and large avatars.
var larger = []thumb.Size{{Width: 256, Height: 256, Crop: true}, {Width: 640, Height: 640, Crop: true}, {Width: 1600, Height: 1200}}

var (
	errNoThumbnail = matrixerr.Unknown(http.StatusBadRequest, "Cannot generate thumbnails for the requested content")
	errLargeLocal  = matrixerr.TooLarge("This image is too large to thumbnail; download it")
	errLargeRemote = matrixerr.New(http.StatusBadGateway, "M_TOO_LARGE", "This image is too large to thumbnail; download it")
)

// choose snaps what is asked for up to a size that is made. Nil is the original: where the image is not larger than
// what is asked for, or no thumbnail is large enough.
func choose(w want, info thumb.Info) *thumb.Size {
	if info.Width <= w.width && info.Height <= w.height && (w.animated || !info.Animated) {
		return nil
	}
	best := &larger[len(larger)-1]
	found := false
	for _, list := range [][]thumb.Size{standard, larger} {
		for i := range list {
			if !found && w.covered(list[i], info) {
				best, found = &list[i], true
			}
		}
	}
	if !info.Animated && (!found || whole(*best, info)) {
		return nil
	}
	return best
}

// covered reports whether a thumbnail of this size is at least what is asked for.
func (w want) covered(s thumb.Size, info thumb.Info) bool {
	if w.crop && w.width == w.height && w.width <= larger[1].Width {
		return s.Crop && s.Width >= w.width
	}
	if w.crop { // of another aspect: a scaled one that can be cropped without getting too small
		fw, fh := s.Fit(info.Width, info.Height)
		return !s.Crop && fw >= min(w.width, info.Width) && fh >= min(w.height, info.Height)
	}
	return !s.Crop && s.Width >= w.width && s.Height >= w.height
}

// whole reports whether a thumbnail would have all pixels of the image.
func whole(s thumb.Size, info thumb.Info) bool {
	if s.Crop {
		return info.Width == info.Height && info.Width <= s.Width
	}
	return info.Width <= s.Width && info.Height <= s.Height
}

// thumb returns the thumbnail of a medium that comes closest to what is wanted, and makes it when it is the first
// time.
func (m *Media) thumb(ctx context.Context, med *medium, w want) (contentRef, error) {
	key := "thumb " + med.hash.String()
	// Each round does one step towards the thumbnail, or waits for somebody who does another step.
	for range 5 {
		pic, err := m.store.picture(ctx, *med.hash)
		if err != nil {
			return contentRef{}, err
		}
		if pic == nil {
			err = m.thumbs.do(ctx, key, m.o.ThumbnailTime, func(ctx context.Context) error { return m.inspect(ctx, *med.hash) })
			if err != nil {
				return contentRef{}, err
			}
			continue
		}
		if err := m.canThumbnail(med, pic.Info); err != nil {
			return contentRef{}, err
		}
		size := choose(w, pic.Info)
		if size == nil {
			return contentRef{*med.hash, pic.Type}, nil
		}
		if ref, made := pic.thumbs[*size]; made {
			return ref, nil
		}
		if err := m.failed.get(key, m.now()); err != nil {
			return contentRef{}, err
		}
		err = m.thumbs.do(ctx, key, m.o.ThumbnailTime, func(ctx context.Context) error { return m.render(ctx, *med.hash, pic, *size) })
		if err != nil {
			return contentRef{}, err
		}
	}
	return contentRef{}, matrixerr.LimitExceeded(time.Second)
}

func (m *Media) canThumbnail(med *medium, info thumb.Info) error {
	switch {
	case info.Type == "":
		return errNoThumbnail
	case info.Pixels() <= m.o.MaxPixels && info.Memory <= 8*m.o.ThumbnailMemory:
		return nil
	case med.origin == m.o.ServerName:
		return errLargeLocal
	}
	return errLargeRemote
}

// inspect looks at the headers of a content and writes down what image it is, or that it is none.
func (m *Media) inspect(ctx context.Context, h files.Hash) error {
	f, err := m.o.Files.Open(h)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := thumb.Inspect(f)
	if err != nil && !errors.Is(err, thumb.ErrFormat) {
		return err
	}
	return m.store.insertImage(ctx, h, info)
}

// failedFor is how long an image that took too much time is not tried again.
const failedFor = 10 * time.Minute

// render decodes an image once and stores the size that is asked for and the standard ones.
func (m *Media) render(ctx context.Context, h files.Hash, pic *picture, size thumb.Size) error {
	made, err := m.decode(ctx, h, pic, missing(pic, size))
	switch {
	case errors.Is(err, thumb.ErrFormat):
		m.metrics.rendered("failed", 1)
		if err := m.store.spoilImage(ctx, h); err != nil {
			return err
		}
		return errNoThumbnail.With(err)
	case errors.Is(err, context.DeadlineExceeded):
		m.metrics.rendered("timeout", 1)
		m.failed.put("thumb "+h.String(), errNoThumbnail, m.now(), failedFor)
		return errNoThumbnail.With(err)
	case err != nil:
		return err
	}
	var all errgroup.Group // together, so that they share a commit
	for _, img := range made {
		all.Go(func() error { return m.keepThumb(ctx, h, img) })
	}
	m.metrics.rendered("ok", len(made))
	return all.Wait()
}

// missing lists what to make of an image: the size that is asked for and those standard ones that somebody may ask
// for, without what is there.
func missing(pic *picture, size thumb.Size) []thumb.Size {
	list := []thumb.Size{size}
	for _, s := range standard {
		_, made := pic.thumbs[s]
		if s != size && !made && (pic.Animated || !whole(s, pic.Info)) {
			list = append(list, s)
		}
	}
	return list
}

// decode makes thumbnails when there is memory for it.
func (m *Media) decode(ctx context.Context, h files.Hash, pic *picture, sizes []thumb.Size) ([]thumb.Image, error) {
	// At least half of the budget each: two at a time keep two cores busy.
	weight := min(max(pic.Memory, m.o.ThumbnailMemory/2), m.o.ThumbnailMemory)
	if err := m.decoding.Acquire(ctx, weight); err != nil {
		return nil, matrixerr.LimitExceeded(m.o.ThumbnailTime).With(errors.New("too many images are being decoded"))
	}
	defer m.decoding.Release(weight)
	f, err := m.o.Files.Open(h)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return thumb.Make(ctx, bufio.NewReaderSize(f, 64<<10), pic.Info, sizes)
}

func (m *Media) keepThumb(ctx context.Context, h files.Hash, img thumb.Image) error {
	in, err := m.o.Files.Receive(bytes.NewReader(img.Data), int64(len(img.Data)))
	if err != nil {
		return err
	}
	ref := contentRef{in.Hash, img.Type}
	return m.o.Files.Keep(in, func() error { return m.store.insertThumb(ctx, h, img.Size, ref, in.Size) })
}
