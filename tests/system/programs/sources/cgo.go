// SPDX-License-Identifier: MIT

package main

// #include <stdlib.h>
import "C"

import (
	"fmt"
	"os"
)

func main() {
	_, err := os.Stat("/dev/vfio/vfio")
	fmt.Println("hello", C.abs(-1), err)
}
