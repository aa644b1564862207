//! The whole command line, from words to what is printed, against an agent of canned answers.
mod asking;
mod bed;
mod grammar;
mod local;
