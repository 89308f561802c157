"""What the pretend Alipay promises."""
