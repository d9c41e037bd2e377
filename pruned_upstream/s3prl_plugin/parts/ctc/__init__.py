"""Put behind the search path of `s3prl.downstream.ctc`."""
