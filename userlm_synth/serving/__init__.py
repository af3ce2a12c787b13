"""User LMs as servers: `serve` starts one, `doctor` says what is wrong with one."""
