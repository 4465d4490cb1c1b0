package thumb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/webp"
)

// Info is what an image says about itself in its headers.
type Info struct {
	Type          string // "image/png", "image/jpeg", "image/gif" or "image/webp", by content
	Width, Height int    // as it is shown, after Orientation
	Orientation   int    // EXIF: 1 is upright, 5 and more swap width and height
	Animated      bool   // has, or may have, more than one frame
	Memory        int64  // bytes that decoding it takes, roughly
}

// Pixels is the number of pixels.
func (i Info) Pixels() int64 { return int64(i.Width) * int64(i.Height) }

// HeadBytes is how much of a file Inspect looks at for what stands in front of the pixels.
const HeadBytes = 256 << 10

// Inspect reads an image's headers and decodes no pixels. The error is ErrFormat when this is no image that Make
// could read.
func Inspect(r io.ReadSeeker) (Info, error) {
	head := make([]byte, HeadBytes)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return Info{}, err
	}
	head = head[:n]
	kind := sniff(head)
	if kind == nil {
		return Info{}, ErrFormat
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return Info{}, err
	}
	config, err := kind.config(r)
	if err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if config.Width <= 0 || config.Height <= 0 {
		return Info{}, fmt.Errorf("%w: it has no pixels", ErrFormat)
	}
	info := Info{Type: kind.mime, Width: config.Width, Height: config.Height, Orientation: 1}
	if err := kind.details(&info, config.ColorModel, head, r); err != nil {
		return Info{}, err
	}
	if info.Orientation >= 5 {
		info.Width, info.Height = info.Height, info.Width
	}
	return info, nil
}

// format is one kind of image. details fills in what the standard decoders do not tell.
type format struct {
	mime    string
	matches func(head []byte) bool
	config  func(io.Reader) (image.Config, error)
	details func(info *Info, model color.Model, head []byte, r io.ReadSeeker) error
}

func sniff(head []byte) *format {
	for _, f := range []*format{
		{"image/jpeg", prefix("\xff\xd8\xff"), jpeg.DecodeConfig, jpegDetails},
		{"image/png", prefix("\x89PNG\r\n\x1a\n"), png.DecodeConfig, pngDetails},
		{"image/gif", prefix("GIF8"), gif.DecodeConfig, gifDetails},
		{"image/webp", isWebP, webp.DecodeConfig, webpDetails},
	} {
		if f.matches(head) {
			return f
		}
	}
	return nil
}

func prefix(magic string) func([]byte) bool {
	return func(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }
}

func isWebP(head []byte) bool {
	return len(head) >= 16 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP"
}

func pngDetails(info *Info, model color.Model, head []byte, _ io.ReadSeeker) error {
	info.Memory = info.Pixels() * pngBytes(model)
	if len(head) > 28 && head[28] == 1 { // interlaced: the passes are decoded apart and merged
		info.Memory *= 2
	}
	// An animation is announced before the first pixel data (APNG, acTL).
	for at := 8; at+8 <= len(head); {
		size, name := int(binary.BigEndian.Uint32(head[at:])), string(head[at+4:at+8])
		if name == "acTL" {
			info.Animated = true
		}
		if name == "IDAT" || size > HeadBytes {
			break
		}
		at += 12 + size
	}
	return nil
}

func pngBytes(model color.Model) int64 {
	switch model {
	case color.GrayModel:
		return 1
	case color.Gray16Model:
		return 2
	case color.NRGBA64Model, color.RGBA64Model:
		return 8
	}
	if _, paletted := model.(color.Palette); paletted {
		return 1
	}
	return 4
}

func gifDetails(info *Info, _ color.Model, _ []byte, _ io.ReadSeeker) error {
	info.Memory = 2 * info.Pixels()
	info.Animated = true // whether a second frame follows is known only after the first
	return nil
}

// webpDetails relies on the decoder refusing frames that are larger than the canvas.
func webpDetails(info *Info, model color.Model, head []byte, _ io.ReadSeeker) error {
	info.Memory = 8 * info.Pixels()
	if string(head[12:16]) == "VP8 " {
		info.Memory = 3 * info.Pixels()
	}
	if string(head[12:16]) == "VP8X" && len(head) > 20 {
		info.Animated = head[20]&webpAnimated != 0
	}
	return nil
}
