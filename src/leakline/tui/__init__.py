"""The live screen: `leakline top`. What it shows is made as plain lines; textual puts them on the terminal."""
