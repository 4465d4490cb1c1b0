package thumb

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"image/color"
	"io"
)

// maxScans bounds how often a JPEG may go over its picture: a few bytes can ask for thousands of passes, each as
// dear as the whole.
const maxScans = 100

// jpegDetails finds the orientation and what decoding costs. A progressive picture is held as 32-bit coefficients
// until its end.
func jpegDetails(info *Info, model color.Model, head []byte, r io.ReadSeeker) error {
	info.Orientation = exifOrientation(head)
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return err
	}
	scans, progressive, err := countScans(r)
	if err != nil {
		return err
	}
	if scans > maxScans {
		return fmt.Errorf("%w: a JPEG with %d scans", ErrFormat, scans)
	}
	samples := 3 * info.Pixels() // at most; 4:2:0 has half of it
	switch model {
	case color.GrayModel:
		samples = info.Pixels()
	case color.CMYKModel:
		samples = 8 * info.Pixels() // four planes, and again as one picture
	}
	info.Memory = samples
	if progressive {
		info.Memory *= 5
	}
	return nil
}

// countScans counts the start-of-scan markers in the whole file. Within pixel data a 0xff is never followed by
// one; in metadata (an embedded preview) it may be, which counts too much, never too little.
func countScans(r io.Reader) (scans int, progressive bool, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		if _, err := in.ReadSlice(0xff); errors.Is(err, bufio.ErrBufferFull) {
			continue
		} else if errors.Is(err, io.EOF) {
			return scans, progressive, nil
		} else if err != nil {
			return 0, false, err
		}
		marker, err := in.ReadByte()
		for err == nil && marker == 0xff {
			marker, err = in.ReadByte()
		}
		switch marker {
		case 0xda:
			scans++
		case 0xc2:
			progressive = true
		}
	}
}

// exifOrientation walks the segments in front of the picture to the EXIF block. Anything odd is upright.
func exifOrientation(head []byte) int {
	for at := 2; at+4 <= len(head) && head[at] == 0xff; {
		marker, size := head[at+1], int(binary.BigEndian.Uint16(head[at+2:]))
		if marker == 0xda || size < 2 || at+2+size > len(head) {
			break
		}
		segment := head[at+4 : at+2+size]
		if marker == 0xe1 && len(segment) > 14 && string(segment[:6]) == "Exif\x00\x00" {
			return tiffOrientation(segment[6:])
		}
		at += 2 + size
	}
	return 1
}

// tiffOrientation reads tag 0x0112 of the first directory.
func tiffOrientation(tiff []byte) int {
	var order binary.ByteOrder = binary.LittleEndian
	if tiff[0] == 'M' {
		order = binary.BigEndian
	}
	at := int(order.Uint32(tiff[4:]))
	if at < 8 || at+2 > len(tiff) {
		return 1
	}
	for n := int(order.Uint16(tiff[at:])); n > 0 && at+14 <= len(tiff); n-- {
		entry := tiff[at+2 : at+14]
		if order.Uint16(entry) == 0x0112 {
			if v := int(order.Uint16(entry[8:])); v >= 1 && v <= 8 {
				return v
			}
			return 1
		}
		at += 12
	}
	return 1
}
