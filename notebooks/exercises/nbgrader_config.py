"""nbgrader's settings for these assignments; `make assignments` puts a copy where nbgrader looks for it."""

from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_output
from nbgrader.converters.autograde import Autograde
from nbgrader.preprocessors import Execute


class ExecuteInSpiteOfAll(Execute):
    """Run a submission to its end, even if a cell of it ends the kernel: that one fails, the others are run again."""

    def preprocess(self, nb, resources=None, km=None):
        self.deadly = set()
        while True:
            deadly = len(self.deadly)
            try:
                return super().preprocess(nb, resources, km)
            except DeadKernelError:
                if len(self.deadly) == deadly:  # it was no cell's doing
                    raise

    def preprocess_cell(self, cell, resources, index):
        if index in self.deadly:
            said = "this cell ended the kernel, and was left out"
            cell.outputs = [new_output("error", ename="DeadKernelError", evalue=said, traceback=[said])]
            return cell, resources
        try:
            return super().preprocess_cell(cell, resources, index)
        except DeadKernelError:
            self.deadly.add(index)
            raise


c = get_config()  # nbgrader defines it

c.CourseDirectory.course_id = "infmem"
c.Autograde.autograde_preprocessors = [
    ExecuteInSpiteOfAll if each is Execute else each for each in Autograde.autograde_preprocessors.default_args[0]
]
# Seconds after which a cell is stopped: it gets no points, and the cells after it are run all the same. Most loops end
# sooner, since every check gives a function 10 seconds for each set of arguments.
c.ExecuteInSpiteOfAll.timeout = 90
c.LimitOutput.max_lines = 200
c.LimitOutput.max_traceback = 50
