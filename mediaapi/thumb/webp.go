package thumb

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"image"
	"io"

	"golang.org/x/image/webp"
)

// decodeWebP decodes a WebP, of an animation its first frame, which the decoder does not know by itself.
func decodeWebP(r io.Reader) (image.Image, error) {
	in := bufio.NewReader(r)
	head, err := in.Peek(30) // RIFF, VP8X
	if err != nil || string(head[12:16]) != "VP8X" || head[20]&webpAnimated == 0 {
		return webp.Decode(in)
	}
	canvas := [2]uint32{uint24(head[24:]), uint24(head[27:])}
	if _, err := in.Discard(len(head)); err != nil {
		return nil, err
	}
	frame, size, err := firstFrame(in)
	if err != nil {
		return nil, err
	}
	// The frame's place (in units of 2), its size and how it is shown; then its chunks.
	w, h := uint24(frame[6:]), uint24(frame[9:])
	if w > canvas[0] || h > canvas[1] {
		return nil, ErrFormat
	}
	kind, err := in.Peek(4)
	if err != nil {
		return nil, err
	}
	return webp.Decode(io.MultiReader(stillHead(w, h, string(kind) == "ALPH", size), io.LimitReader(in, int64(size))))
}

// Flags of VP8X.
const (
	webpAnimated = 1 << 1
	webpAlpha    = 1 << 4
)

func uint24(b []byte) uint32 { return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 }

// firstFrame skips to the first ANMF chunk and returns its head and how many bytes of chunks follow it.
func firstFrame(in *bufio.Reader) (frame [16]byte, size uint32, err error) {
	for {
		var chunk [8]byte
		if _, err := io.ReadFull(in, chunk[:]); err != nil {
			return frame, 0, err
		}
		size := binary.LittleEndian.Uint32(chunk[4:])
		if string(chunk[:4]) == "ANMF" {
			_, err := io.ReadFull(in, frame[:])
			if err == nil && (size < 16 || size > 1<<31) {
				err = ErrFormat
			}
			return frame, size - 16, err
		}
		if _, err := io.CopyN(io.Discard, in, int64(size)+int64(size&1)); err != nil {
			return frame, 0, err
		}
	}
}

// stillHead begins a WebP of one picture; w and h are one less than its size. With VP8X in front the decoder holds
// the picture against that size.
func stillHead(w, h uint32, alpha bool, size uint32) io.Reader {
	out := binary.LittleEndian.AppendUint32([]byte("RIFF"), 4+18+size+size&1)
	out = binary.LittleEndian.AppendUint32(append(out, "WEBPVP8X"...), 10)
	flags := byte(0)
	if alpha {
		flags = webpAlpha
	}
	out = append(out, flags, 0, 0, 0, byte(w), byte(w>>8), byte(w>>16), byte(h), byte(h>>8), byte(h>>16))
	return bytes.NewReader(out)
}
