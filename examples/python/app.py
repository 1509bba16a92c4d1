from robeing import App
app = App()
@app.task("sum", slots=8)
async def add(xs: list[int]) -> int: return sum(xs)
app.run()
