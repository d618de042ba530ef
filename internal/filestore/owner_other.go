//go:build !unix

package filestore

import (
	"errors"
	"io/fs"
	"os"
)

// ours can't be told here.
func ours(os.FileInfo) bool { return true }

// fromSystem tells an error of the system, such as a full disk, from one of
// the file's content.
func fromSystem(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok
}

// unlock has nothing to do that closing doesn't.
func unlock(*os.File) {}
