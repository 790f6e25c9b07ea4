
mod machine;
