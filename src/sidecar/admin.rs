//! `/metrics`, `/health`, `/ready`, on a thread of their own.
