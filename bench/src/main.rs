//! `bench`: measures metalstrap against its peers. Start at `cases.rs`; each name there is a file in `cases/`.

mod absent;
mod cases;
mod changes;
mod cli;
mod client;
mod disk;
mod docs;
mod generate;
mod image;
mod inside;
mod job;
mod lab;
mod link;
mod log;
mod noise;
mod page;
mod peers;
mod plot;
mod programs;
mod relay;
mod release;
mod result;
mod room;
mod run;
mod server;
mod stop;
mod table;
mod tree;
mod upgrade;

fn main() -> std::process::ExitCode {
    cli::main()
}
