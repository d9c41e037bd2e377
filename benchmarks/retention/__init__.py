"""What a student keeps of its teacher: the paper's claim, at a scale that a CPU can test.

    python -m benchmarks.retention                          everything that is missing, then the tables
    python -m benchmarks.retention --methods ours --seeds 0
    python -m benchmarks.retention --tune                   the settings to choose from, on voices of their own
    python -m benchmarks.retention --table                  the tables alone

Students of equal size, trained for an equal number of steps on the same batches, are asked the same questions as their
teacher. What makes the answers worth something: controls that must fall clearly below the teacher, thousands of test
items, questions that the front end cannot answer alone, several seeds, and settings chosen on other voices and seeds.

    teacher.py, teacher.yaml   who teaches: the demo's teacher, brought further
    students.py                who is compared: recipes, controls, and the settings that recipes were chosen from
    speech.py                  what they hear: self-made speech with its phones, words, voices, intents and keywords
    questions.py               what they are asked, and how an answer is read from hidden states
    asking.py                  one model's answers to all questions
    tables.py                  the tables
    __main__.py                runs, resumes, and writes results/retention.{json,md} and retention_tuning.md
"""
