"""What every part of sixgig stands on: files, console, logs, runtime facts. Imports nothing of ours."""
