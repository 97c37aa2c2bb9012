// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"os"
)

func main() {
	_, err := os.Stat("/dev/vfio/vfio")
	fmt.Println("hello", err)
}
