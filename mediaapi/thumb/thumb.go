// Package thumb owns the making of thumbnails: it looks at what an image claims to be before anything is decoded,
// decodes PNG, JPEG, GIF and WebP, and shrinks them without ever holding a second full-size picture. Everything it
// reads may come from an enemy; who may make how much at once is its caller's business.
package thumb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"slices"
)

// ErrFormat says that content is no image that can be read.
var ErrFormat = errors.New("no image that can be thumbnailed")

// Size is what a thumbnail is asked to be. Scaled, the image keeps its aspect and fits into the box; cropped, the
// middle of it has the aspect of the box. Neither is ever larger than the image.
type Size struct {
	Width, Height int
	Crop          bool
}

// Image is a finished thumbnail.
type Image struct {
	Size          Size
	Width, Height int
	Type          string // "image/jpeg" or "image/png"
	Data          []byte
}

const (
	jpegQuality = 82
	// maxSharp is how many pixels a thumbnail of a PNG, often a drawing or a screen, may have to be one itself: its
	// edges stay sharp, and it is still small.
	maxSharp = 320 * 240
)

// Make decodes the image in r and makes a thumbnail of each size. info is what Inspect said about it.
func Make(ctx context.Context, r io.Reader, info Info, sizes []Size) (made []Image, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: decoder panic: %v", ErrFormat, p)
		}
	}()
	src, err := decode(&cancelReader{ctx, r}, info.Type)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if src.Bounds().Empty() {
		return nil, fmt.Errorf("%w: it has no pixels", ErrFormat)
	}
	// Larger ones first: smaller ones are made from them.
	sizes = slices.SortedFunc(slices.Values(sizes), func(a, b Size) int { return b.Width*b.Height - a.Width*a.Height })
	var bases []*image.RGBA
	for _, size := range sizes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		small := render(src, bases, size, info.Orientation)
		if !size.Crop {
			bases = append(bases, small)
		}
		sharp := info.Type == "image/png" && small.Rect.Dx()*small.Rect.Dy() <= maxSharp
		img, err := encode(turn(small, info.Orientation), sharp)
		if err != nil {
			return nil, err
		}
		img.Size = size
		made = append(made, img)
	}
	return made, nil
}

func decode(r io.Reader, mime string) (image.Image, error) {
	switch mime {
	case "image/jpeg":
		return jpeg.Decode(r)
	case "image/png":
		return png.Decode(r)
	case "image/gif":
		return gif.Decode(r) // the first frame
	case "image/webp":
		return decodeWebP(r)
	}
	return nil, ErrFormat
}

// render makes one thumbnail, still turned as the source is, from the smallest base that is at least twice its
// size, else from the source.
func render(src image.Image, bases []*image.RGBA, size Size, orientation int) *image.RGBA {
	if orientation >= 5 {
		size.Width, size.Height = size.Height, size.Width
	}
	b := src.Bounds()
	part, w, h := size.of(b)
	for _, base := range slices.Backward(bases) {
		if p, _, _ := size.of(base.Bounds()); p.Dx() >= 2*w && p.Dy() >= 2*h {
			return shrink(base, p, w, h)
		}
	}
	return shrink(src, part, w, h)
}

// of says which part of an image with these bounds a thumbnail shows, and how large it is.
func (s Size) of(b image.Rectangle) (part image.Rectangle, w, h int) {
	iw, ih := b.Dx(), b.Dy()
	if !s.Crop {
		w, h = s.Fit(iw, ih)
		return b, w, h
	}
	cw, ch := iw, ih
	if iw*s.Height > ih*s.Width {
		cw = max(1, ih*s.Width/s.Height)
	} else {
		ch = max(1, iw*s.Height/s.Width)
	}
	corner := b.Min.Add(image.Pt((iw-cw)/2, (ih-ch)/2))
	return image.Rectangle{Min: corner, Max: corner.Add(image.Pt(cw, ch))}, min(cw, s.Width), min(ch, s.Height)
}

// Fit is how large an image of iw × ih pixels becomes when it is scaled into the box.
func (s Size) Fit(iw, ih int) (w, h int) {
	switch {
	case iw <= s.Width && ih <= s.Height:
		return iw, ih
	case iw*s.Height > ih*s.Width:
		return s.Width, max(1, (ih*s.Width+iw/2)/iw)
	}
	return max(1, (iw*s.Height+ih/2)/ih), s.Height
}

// encode makes a PNG where that is asked for or something is transparent, else a JPEG.
func encode(m *image.RGBA, sharp bool) (Image, error) {
	var buf bytes.Buffer
	img := Image{Width: m.Rect.Dx(), Height: m.Rect.Dy(), Type: "image/jpeg"}
	var err error
	if !sharp && m.Opaque() {
		err = jpeg.Encode(&buf, m, &jpeg.Options{Quality: jpegQuality})
	} else {
		img.Type = "image/png"
		err = png.Encode(&buf, m)
	}
	img.Data = buf.Bytes()
	return img, err
}

// cancelReader ends a decoder whose time is over.
type cancelReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
