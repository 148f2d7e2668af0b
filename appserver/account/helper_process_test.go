package account

import "fmt"

func runHelper(name string) int { fmt.Println(name); return 1 }
